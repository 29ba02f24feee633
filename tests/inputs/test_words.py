"""Arguments and environments in both of HTCondor's syntaxes, compared with HTCondor's own, and words for the shell."""

from __future__ import annotations

import random
import subprocess
from typing import Any

import pytest

from clstr.inputs.words import BadWords, arguments, environment, in_single_quotes, shell_line


@pytest.fixture(scope="module")
def classad() -> Any:
    pytest.importorskip("htcondor2", reason="HTCondor's package is not installed")  # it brings the functions with it
    return pytest.importorskip("classad2")


def of_condor(classad: Any, expression: str) -> Any:
    return classad.ExprTree(expression).eval()


def literal(text: str) -> str:
    """The text as ClassAds write one."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("a  b\tc", ["a", "b", "c"]),
        (r"a\"b \"", ['a"b', '"']),
        ("it's $HOME a'b c'", ["it's", "$HOME", "a'b", "c'"]),
        ('""', []),
        ("\"a 'b  c' d\"", ["a", "b  c", "d"]),
        ("\"it''s 'it''s' ''\"", ["its", "it's", ""]),
        ('"say ""hi"" \\n"', ["say", '"hi"', "\\n"]),
        ("\udcff \u00a0x", ["\udcff", "\u00a0x"]),
    ],
)
def test_arguments_become_words(text: str, found: list[str]) -> None:
    assert arguments(text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('a "b" c', 'a " that is neither'),
        ('"a', 'a " that is not closed'),
        ('"', 'a " that is not closed'),
        ('"a" b"', 'a " that is not closed, or alone'),
        ("\"a 'b\"", "a ' that is not closed"),
    ],
)
def test_quotes_that_do_not_fit_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadWords) as caught:
        arguments(text)
    assert str(caught.value).startswith(says)
    assert str(caught.value).endswith(")")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ('""', {}),
        ("A=1; B=x y;;C=", {"A": "1", "B": "x y", "C": ""}),
        ("\"A=1 B='x y' C='it''s' D=\"\"q\"\" E==\"", {"A": "1", "B": "x y", "C": "it's", "D": '"q"', "E": "="}),
        ("\"'A=x y' A=2\"", {"A": "2"}),
    ],
)
def test_environments_become_names_and_values(text: str, found: dict[str, str]) -> None:
    assert environment(text) == found


@pytest.mark.parametrize("text", ["A", '"A"', '"1A=2"', "=2", "A B=2", 'A="1"', '"A=1'])
def test_an_environment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadWords, match=r"\(.*\)$"):
        environment(text)


def test_new_arguments_are_split_as_htcondor_splits_them(classad: Any) -> None:
    choice = random.Random(5)
    refused = 0
    for _ in range(3000):
        text = "".join(choice.choices("ab '\"\\$;", k=choice.randrange(12)))
        theirs = of_condor(classad, f"argsToList({literal(text)}, 2)")
        quoted = '"' + text.replace('"', '""') + '"'
        try:
            ours: Any = arguments(quoted)
        except BadWords:
            ours = None
        assert ours == (theirs if isinstance(theirs, list) else None), text
        refused += ours is None
    assert 100 < refused < 2900


def test_old_arguments_are_split_as_htcondor_splits_them(classad: Any) -> None:
    choice = random.Random(6)
    for _ in range(1000):
        text = "".join(choice.choices("ab '\\$;\t", k=choice.randrange(12)))
        assert arguments(text) == of_condor(classad, f"argsToList({literal(text)}, 1)")


def test_environments_are_read_as_htcondor_reads_them(classad: Any) -> None:
    choice = random.Random(7)
    for _ in range(1000):
        values = {f"N{n}": "".join(choice.choices("ab '=\\", k=choice.randrange(6))) for n in range(3)}
        old = ";".join(f"{name}={value}" for name, value in values.items())
        new = of_condor(classad, f"envV1ToV2({literal(old)})")
        assert environment(f'"{new}"') == environment(old) == values


def test_a_shell_gives_the_words_back() -> None:
    choice = random.Random(8)
    words = ["".join(choice.choices("ab'\"\\$`!*{}~ \n;&|<>()#=\u00e9", k=choice.randrange(9))) for _ in range(300)]
    line = shell_line([word.encode() for word in ["printf", "%s\\0", *words]])
    printed = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[: len(words)] == [word.encode() for word in words]


def test_bytes_that_are_not_utf_8_are_kept() -> None:
    assert shell_line([b"echo", b"\xff\xfe x"]) == b"echo '\xff\xfe x'"
    assert shell_line([b"./a-b_c", b"", b"a=b,c:d@e%f+g"]) == b"./a-b_c '' a=b,c:d@e%f+g"


def test_a_word_with_a_brace_is_in_quotes_so_that_a_value_can_be_put_there() -> None:
    assert shell_line([b"{A}"]) == b"'{A}'"
    assert in_single_quotes(b"it's") == b"it'\\''s"
