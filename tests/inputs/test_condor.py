"""The language of submit files, compared with HTCondor's own parser on files with one ``queue``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clstr.inputs.condor import Queued, queued
from clstr.model import BadInput

ENVIRONMENT = {"HOME": os.environ.get("HOME", ""), "EMPTY_OF_OURS": ""}


def jobs(text: str) -> list[Queued]:
    return list(queued(text, "a.sub", 1, ENVIRONMENT))


def refusal(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        jobs(text)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(")")
    return str(caught.value)


# --- the same as HTCondor ----------------------------------------------------------------------------------

CORPUS = {
    "keys in any case": "Executable = /bin/echo\nARGUMENTS = a b\nqueue\n",
    "a value with equals signs": "arguments = -x 1 --opt=5 = \nqueue\n",
    "blanks around": "   a   =   b  c   \n\tx\t=\ty\t\nqueue\n",
    "the last value counts": "a = 1\nA = 2\nqueue\n",
    "an empty value": "a = 1\na =\nx = [$(a)]\nqueue\n",
    "comments and blank lines": "# one\n\n   # two = 3\na = 1 # no comment\nqueue\n",
    "a comment does not go on": "# one \\\na = 1\nqueue\n",
    "lines that go on": "a = 1 \\\n   2\\\n\t3 \\\n4\nb = 5\nqueue\n",
    "a line that goes on in a blank one": "a = x\\\n\nb = 2\nqueue\n",
    "what goes on swallows what looks like a key": "a = x\\\nb = 2\nqueue\n",
    "carriage returns": "a = 1\r\nb = $(a)\r\nqueue 2\r\n",
    "no newline at the end": "a = 1\nqueue",
    "attributes": '+Name = "x"\nMY.Foo = 3\nmy.bar = "y"\nqueue\n',
    "an attribute by its two names": '+Name = "x"\nMy.nAme = "z"\nqueue\n',
    "queueing is no queue": "queueing = yes\nqueue\n",
    "queue in any case": "a = 1\nQuEuE 2\n",
    "macros": "b = 2\na = <$(b)> <$(B)>\nqueue\n",
    "macros set later": "a = $(b)\nb = 2\nqueue\n",
    "macros inside of macros": "a = $(b)-$(c)\nb = <$(c)>\nc = 3\nqueue\n",
    "a key that names itself": "a = x\na = $(a) y\na = $(A) z\nqueue\n",
    "a key that names itself with a default": "a = $(a:none) y\nqueue\n",
    "defaults": "a = $(x:1) [$(y:)] $(z:a b) $(u:a:b)\nqueue\n",
    "defaults with macros": "c = 3\na = $(x:$(c)) $(x:$(y:z)w) $(x:f(1)g)\nqueue\n",
    "a default of an empty macro": "e =\na = $(e:d)\nqueue\n",
    "a default that is not needed": "c = 3\na = $(c:4)\nqueue\n",
    "dollars": "a = $(DOLLAR)(x) $(dollar)HOME $HOME $x $ 5$ ${x}\nqueue\n",
    "the environment": "a = $ENV(HOME) $ENV(NO_SUCH_NAME_HERE:d)\nqueue\n",
    "what HTCondor counts": "a = $(Process)$(procid)$(Cluster)$(ClusterId)$(Step)$(Row)$(ItemIndex)\nqueue\n",
    "quotes are the key's own": "arguments = \"a 'b c' \"\"d\"\"\"\nqueue\n",
    "macros with dots": "a.b = 1\nc = $(a.b) $(a.c:2)\nqueue\n",
    "beyond ASCII": "a = \u00e9\u00a0\u20ac $(b)\nb = \u00fc\nqueue\n",
}


@pytest.mark.parametrize("case", CORPUS)
def test_keys_have_what_they_have_for_htcondor(case: str) -> None:
    htcondor = pytest.importorskip("htcondor2", reason="HTCondor's package is not installed")
    theirs = htcondor.Submit(CORPUS[case])
    ours = jobs(CORPUS[case])[0]
    # Keys are told apart by their case nowhere; HTCondor keeps the first way of writing them.
    assert {key.lower() for key in theirs} == set(ours.settings)
    for key in theirs:
        expanded = theirs.expand(key) if theirs[key] else ""
        assert ours.value(key.lower()) == expanded, key


QUEUES = {
    "commas": "a = $(x)\nqueue x in (1, 2,3)\n",
    "blanks": "a = $(x)\nqueue x in (a b\tc)\n",
    "no item between commas": "a = $(x)\nqueue x in (a,,b,)\n",
    "no blank before the bracket": "a = $(x)\nqueue x in(a)\n",
    "any case": "a = $(x)\nQUEUE 1 X In (a)\n",
    "Item": "a = $(Item)\nqueue in (a b,c)\n",
    "lines in brackets": "a = $(x)\nqueue x in (\n a b\n# no\n\n c, d\n)\n",
    "quotes are no quotes": "a = $(x)\nqueue x in ('a b', \"c d\")\n",
    "lines": "a = $(x)\nqueue x from (\n a b\n c , d\n)\n",
    "a line in brackets": "a = $(x)\nqueue 1 x from ( a b )\n",
    "variables": "a = $(x)-$(y)\nqueue x,y from (\n a b c\n c , d e\n f\n g,h\n i\t j\n)\n",
    "variables with blanks between": "a = $(x)-$(y)\nqueue x y from (\n a, b c\n)\n",
    "variables of items": "a = $(x)-$(y)\nqueue x, y in (a b)\n",
}


@pytest.mark.parametrize("case", QUEUES)
def test_items_are_those_of_htcondor(case: str) -> None:
    htcondor = pytest.importorskip("htcondor2", reason="HTCondor's package is not installed")
    submit = htcondor.Submit(QUEUES[case])
    theirs = [{name.lower(): value for name, value in item.items()} for item in submit.itemdata()]
    ours = jobs(QUEUES[case])
    assert [{name: job.own[name] for name in theirs[0]} for job in ours] == theirs


UNREADABLE = ["a b = 3\nqueue", "foo\nqueue", "a : 3\nqueue", "queue = 3\nqueue", "a.b-c = 3\nqueue"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_htcondor_cannot_read_is_refused(text: str) -> None:
    htcondor = pytest.importorskip("htcondor2", reason="HTCondor's package is not installed")
    refusal(text)
    with pytest.raises(Exception, match=r"parse_up_to_q_line|Invalid Queue count"):
        list(htcondor.Submit(text).itemdata() or ())


# --- many queue statements ---------------------------------------------------------------------------------


def test_keys_stay_in_force_and_processes_count_through_the_file() -> None:
    text = "a = $(Process)$(b)\nb = x\nqueue 2\nb = y\nqueue\nb =\nqueue 2\nqueue 0\n"
    assert [job.value("a") for job in jobs(text)] == ["0x", "1x", "2y", "3", "4"]
    assert [job.line for job in jobs(text)] == [3, 3, 5, 7, 7]


def test_each_item_is_queued_so_many_times() -> None:
    text = "n = 2\na = $(x)$(Step)$(Row)$(Process)\nqueue $(n) x in (a, b)\n"
    assert [job.value("a") for job in jobs(text)] == ["a000", "a101", "b012", "b113"]


def test_a_variable_of_queue_is_forgotten_behind_it() -> None:
    text = "a = $(x:none)\nqueue x in (1)\nqueue\n"
    assert [job.value("a") for job in jobs(text)] == ["1", "none"]


def test_items_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "items"
    file.write_bytes(b"1 one\r\n\n# no\n 2 \xff two")
    rows = [(job.own["x"], job.own["y"]) for job in jobs(f"queue x,y from {file}\n")]
    assert rows == [("1", "one"), ("2", "\udcff two")]
    assert jobs(f"f = {file}\nqueue x from $(f)\nqueue x from /dev/null\n")[0].own["x"] == "1 one"


def test_items_may_name_macros() -> None:
    assert [job.value("a") for job in jobs("b = 2\na = $(x)\nqueue x from (\n<$(b)>\n)\n")] == ["<2>"]


def test_an_unused_macro_may_hold_what_it_likes() -> None:
    assert len(jobs("a = $(no) $$(no) $INT(x)\nqueue\n")) == 1


# --- what is refused ---------------------------------------------------------------------------------------

REFUSED = {
    "": "a.sub: no queue statement",
    "a = 1\n": "a.sub: no queue statement",
    "a = 1\n\nb\nqueue\n": "a.sub:3: 'b' is neither KEY = VALUE nor queue",
    "if true\nqueue\n": "a.sub:1: 'if true' is neither",
    "if $(x) == 1\nqueue\n": "a.sub:1: bad key 'if $(x)'",
    "include : x = 1\nqueue\n": "a.sub:1: bad key 'include : x'",
    "a @=end\nx\n@end\nqueue\n": "a.sub:1: bad key 'a @'",
    "= 1\nqueue\n": "a.sub:1: bad key ''",
    "-a = 1\nqueue\n": "a.sub:1: bad key '-a'",
    "a = 1 \\": "a.sub:1: the last line ends in a backslash",
    "a = 1\nb = \0\nqueue\n": "a.sub:2: NUL byte in a submit file",
    "a = $(a)\nqueue\n": "a.sub:1: $(a) is not defined yet",
    "queue x\n": "a.sub:1: cannot read 'queue x'",
    "queue 2 x\n": "a.sub:1: cannot read 'queue 2 x'",
    "queue 2*3\n": "a.sub:1: bad number '2*3' of queue",
    "queue -1\n": "a.sub:1: bad number '-1' of queue",
    "queue 99999999\n": "a.sub:1: bad number '99999999' of queue",
    "queue = 1\n": "a.sub:1: bad number '=' of queue",
    "queue 1 2 in (a)\n": "a.sub:1: bad variable '2' of queue",
    "queue x in a\n": "a.sub:1: no (...) behind 'in'",
    "queue x in [1:2] (a)\n": "a.sub:1: queue with a slice is not known here",
    "queue x matching *.c\n": "a.sub:1: queue with matching is not known here",
    "queue x from\n": "a.sub:1: no file behind 'from'",
    "queue x from ls |\n": "a.sub:1: no file behind 'from'",
    "queue x from /no/such/file\n": "a.sub:1: /no/such/file: No such file or directory",
    "a = 1\nqueue x from (\n b\n": "a.sub:2: the list of queue has no end",
    "queue x in (a\n": "a.sub:1: the list of queue has no end",
    "queue $(n)\n": "a.sub:1: $(n) is not defined",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(text: str) -> None:
    assert refusal(text).startswith(REFUSED[text])


UNDEFINED = {
    "$(no)": "$(no) is not defined (set no, or write $(no:DEFAULT))",
    "$ENV(NO_SUCH_NAME_HERE)": "$ENV(NO_SUCH_NAME_HERE) is not defined (",
    "$(b)": "$(b) is in its own value (",
    "$$(Memory)": "'$$(Memory)' is not known here (",
    "$INT(b)": "'$INT(b)' is not known here (",
    "$(b": "'$(b' has no ')' (",
    "$( b )": "'$( b )' is not known here (",
    "$()": "'$()' is not known here (",
}


@pytest.mark.parametrize("value", UNDEFINED)
def test_a_macro_that_means_nothing_is_refused_with_the_line_that_names_it(value: str) -> None:
    [job] = jobs(f"\na = {value}\nb = $(c)\nc = $(a)\nqueue\n")
    with pytest.raises(BadInput) as caught:
        job.value("a")
    assert str(caught.value).startswith(f"a.sub:2: {UNDEFINED[value]}")


def test_what_is_wrong_inside_of_a_macro_is_told_with_the_line_where_it_stands() -> None:
    text = "a = 1\nb = $(a) $(no)\nc = $(a) $(b)\nd = $(none:$(a)) $(no)\nqueue\n"
    for key, line in (("c", 2), ("d", 4)):
        with pytest.raises(BadInput, match=rf"a\.sub:{line}: \$\(no\) is not defined"):
            jobs(text)[0].value(key)


def test_macros_that_double_again_and_again_are_refused() -> None:
    text = "".join(f"a{n} = $(a{n + 1})$(a{n + 1})\n" for n in range(60))
    with pytest.raises(BadInput, match=r"a\.sub:\d+: more than 100,000 macros in one value \("):
        jobs(f"{text}a60 =\nqueue\n")[0].value("a0")


def test_a_long_chain_of_macros_does_not_recurse_for_ever() -> None:
    text = "".join(f"a{n} = $(a{n + 1})\n" for n in range(5000))
    for value in (text, f"a0 = {'$(x:' * 5000}{')' * 5000}\n"):
        with pytest.raises(BadInput, match=r"a\.sub:\d+: \$\(\w+\) is inside of more than 100 other macros \("):
            jobs(f"{value}queue\n")[0].value("a0")
    assert jobs("a = $(x:$(x:$(x:2)))\nqueue\n")[0].value("a") == "2"
