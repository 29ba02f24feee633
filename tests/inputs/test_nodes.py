"""The NODE grammar: what it gives, and the one line that every error is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clstr
from clstr.inputs.nodes import MOST_HOSTS, Entry, exclude, parse_node, read_excluded, read_nodes, slots_of
from clstr.model import BadInput, Node, Slot


def no_stdin() -> bytes:
    raise AssertionError("standard input was read")


def texts(node: str) -> list[str]:
    return [entry.node.text for entry in parse_node(node, "--node")]


def refusal(node: str, origin: str = "--node") -> str:
    with pytest.raises(BadInput) as caught:
        parse_node(node, origin)
    message = str(caught.value)
    assert message.startswith(f"{origin}: ")
    assert message.endswith(")"), f"does not say what to do: {message}"
    assert message.isprintable()
    return message


def entries(*nodes: str) -> list[Entry]:
    return read_nodes(nodes, [], no_stdin)


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[None]:
    """A site with groups of its own."""
    from ClusterShell import NodeSet

    (tmp_path / "site.yaml").write_text(
        "site:\n"
        "  gpu: 'g[01-03]'\n"
        "  all: '@gpu,n[1-2]'\n"
        "  down: ''\n"
        "  loop: '@loop'\n"
        "  users: 'bob@x1'\n"
        "  rack1: r1\n"
        "  rack2: r2\n"
    )
    (tmp_path / "groups.conf").write_text(
        f"[Main]\ndefault: site\nautodir: {tmp_path}\n"
        f"[up]\nmap: touch {tmp_path}/asked; case $GROUP in 22) echo u[1-2];; *) exit 3;; esac\n"
    )
    NodeSet.set_std_group_resolver_config(str(tmp_path / "groups.conf"))
    yield
    NodeSet.set_std_group_resolver(None)


# --- what a NODE gives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("n1", "n1", None, None),
        ("n1.example.org", "n1.example.org", None, None),
        ("192.0.2.7:22", "192.0.2.7", None, 22),
        ("bob@n1", "n1", "bob", None),
        ("bob@n1:2222", "n1", "bob", 2222),
        ("bob@example.org@n1", "n1", "bob@example.org", None),
        ("DOM\\bob@n1", "n1", "DOM\\bob", None),
        ("[::1]", "::1", None, None),
        ("[fe80::1%eth0]:22", "fe80::1%eth0", None, 22),
        ("bob@[::1]:2222", "::1", "bob", 2222),
        ("my_alias-2", "my_alias-2", None, None),
        (":", ":", None, None),
    ],
)
def test_a_node_is_user_host_and_port_and_its_text_is_its_identity(
    text: str, host: str, user: str | None, port: int | None
) -> None:
    (entry,) = parse_node(text, "nodes.txt:3")
    node = entry.node
    assert (node.text, node.host, node.user, node.port) == (text, host, user, port)
    assert (entry.slots, entry.origin) == (1, "nodes.txt:3")


@pytest.mark.parametrize("text", ["n1 slots=4", "  n1\t slots=4 ", "n1 slots=0004"])
def test_slots_follow_the_host_after_blanks(text: str) -> None:
    assert parse_node(text, "--node") == [Entry(Node("n1", "n1"), 4, "--node")]


def test_this_machine_may_have_slots() -> None:
    assert parse_node(": slots=4", "--node") == [Entry(Node(":", ":"), 4, "--node")]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n[01-03],m7", "n01 n02 n03 m7"),
        ("rack[1-2]n[09-10]", "rack1n09 rack1n10 rack2n09 rack2n10"),
        ("n[0-10/5]", "n0 n5 n10"),
        ("n[8-10]", "n8 n9 n10"),
        ("n[08-10]", "n08 n09 n10"),
        ("n[1,3]-ib0", "n1-ib0 n3-ib0"),
        ("n[1-2]0", "n10 n20"),
        ("n[1-3]!n2", "n1 n3"),
        ("n[1-3]&n[2-9]", "n2 n3"),
        ("n[1-3]^n[3-4]", "n1 n2 n4"),
        ("z,a,n10,n2", "z a n10 n2"),
        ("a,b,a", "a b"),
    ],
)
def test_a_node_set_yields_its_hosts_in_listed_order(text: str, hosts: str) -> None:
    assert texts(text) == hosts.split()


def test_node_sets_mean_what_clustershell_means() -> None:
    from ClusterShell.NodeSet import NodeSet

    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(300):
        text = f"n[{dice.randint(0, 3)}-{dice.randint(3, 9)}]"
        for _ in range(dice.randint(1, 4)):
            first, last, step = dice.randint(0, 4), dice.randint(4, 9), dice.randint(1, 3)
            text += f"{dice.choice(',,!&^')}n[{first}-{last}/{step}]"
        expected = sorted(NodeSet(text))
        if expected:
            assert sorted(texts(text)) == expected, f"{text} (seed {seed})"
        else:
            assert "yields no host" in refusal(text)


def test_user_and_port_go_around_a_whole_node_set() -> None:
    assert texts("bob@rack[1-2]:2222 slots=3") == ["bob@rack1:2222", "bob@rack2:2222"]
    assert [entry.slots for entry in parse_node("rack[1-2] slots=3", "--node")] == [3, 3]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("@gpu", "g01 g02 g03"),
        ("@site:gpu", "g01 g02 g03"),
        ("bob@@gpu", "bob@g01 bob@g02 bob@g03"),
        ("@all!@gpu", "n1 n2"),
        ("x,@gpu", "x g01 g02 g03"),
        ("@rack[1-2]", "r1 r2"),
        ("@gpu!@down", "g01 g02 g03"),
        ("@gpu:2222", "g01:2222 g02:2222 g03:2222"),
        ("bob@@site:gpu:2222", "bob@g01:2222 bob@g02:2222 bob@g03:2222"),
        ("@up:22", "u1 u2"),
        ("@up:22:2222", "u1:2222 u2:2222"),
    ],
)
@pytest.mark.usefixtures("groups")
def test_groups_are_those_of_the_site(text: str, hosts: str) -> None:
    assert texts(text) == hosts.split()


def in_a_process(code: str, **environment: str) -> str:
    root = str(Path(clstr.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout


def test_the_sites_own_groups_conf_is_found(tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text("[Main]\ndefault: mine\n[mine]\nmap: echo m[1-2]\n")
    code = "from clstr.inputs.nodes import parse_node; print([e.node.text for e in parse_node('@x', '-')])"
    assert in_a_process(code, CLUSTERSHELL_CFGDIR=str(tmp_path)) == "['m1', 'm2']\n"


def test_a_broken_groups_conf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text("no sections\n")
    code = (
        "from clstr.inputs.nodes import parse_node, BadInput\n"
        "try: parse_node('@gpu:22', '--node')\n"
        "except BadInput as error: print(error)"
    )
    said = in_a_process(code, CLUSTERSHELL_CFGDIR=str(tmp_path))
    assert said.startswith("--node: cannot expand '@gpu': ")
    assert said.count("\n") == 1


def test_plain_names_do_not_load_clustershell() -> None:
    code = (
        "import sys; from clstr.inputs.nodes import parse_node\n"
        "for text in ('n1', 'bob@n1:22 slots=4', ':', '[::1]:22'): parse_node(text, '--node')\n"
        "print('ClusterShell' in sys.modules)"
    )
    assert in_a_process(code) == "False\n"


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty NODE"),
        (" \t", "empty NODE"),
        ("n1 cpus=4", "unknown key"),
        ("n1 =4", "unknown key"),
        ("n1 slots=", "bad number of slots"),
        ("n1 slots=0", "bad number of slots"),
        ("n1 slots=-1", "bad number of slots"),
        ("n1 slots=+1", "bad number of slots"),
        ("n1 slots=1_0", "bad number of slots"),
        ("n1 slots=٤", "bad number of slots"),
        ("n1 slots=10001", "bad number of slots"),
        ("n1 slots=" + "9" * 5000, "bad number of slots"),
        ("n1 slots=2 slots=2", "twice"),
        ("n1 slots=autos", "bad number of slots"),
        ("n1 class=", "empty class name in 'n1 class='"),
        ("n1 class=a,,b", "empty class name in 'n1 class=a,,b'"),
        ("n1 class=a class=b", "class= stands there twice"),
        ("n1 slots", "not KEY=VALUE"),
        ("sleep 1", "not KEY=VALUE"),
        ("n1 n2", "not KEY=VALUE"),
        ("n1\nn2", "line break"),
        ("n1\x07", "control"),
        ("n1\xa0slots=4", "control"),
        ("n\udcff", "non-UTF-8"),
        ("n1:", "bad port"),
        ("n1:0", "bad port"),
        ("n1:65536", "bad port"),
        ("n1:ssh", "bad port"),
        ("n1:٢٢", "bad port"),
        ("[::1]:", "bad port"),
        ("n[1-2]:x", "bad port"),
        (":22", "no host"),
        ("bob@", "no host"),
        ("bob@:", "no host"),
        ("bob@:22", "no host"),
        ("@@gpu", "empty user"),
        ("-oProxyCommand=x@n1", "bad user"),
        ("ssh://bob@n1", "bad user"),
        ("bob:secret@n1", "bad user"),
        ("-n1", "begins with '-'"),
        ("bob@-n1", "begins with '-'"),
        ("-n[1-2]", "begins with '-'"),
        ("n*", "'*' or '?'"),
        ("n?[1-2]", "'*' or '?'"),
        ("@*", "'*' or '?'"),
        ("::1", "IPv6 in brackets"),
        ("fe80::1:22", "IPv6 in brackets"),
        ("[::1", "not [IPv6]"),
        ("[01-04]", "not [IPv6]"),
        ("[192.0.2.7]", "not [IPv6]"),
        ("[::1]x", "after [IPv6]"),
        ("n[1-3", "missing bracket"),
        ("n1]", "closing bracket"),
        ("n[1-2][3]", "bracket"),
        ("n[]", "bad range"),
        ("n[3-1]", "bad range"),
        ("n[a-c]", "bad range"),
        ("n[1-9/0]", "bad range"),
        ("n[1-1_000]", "bad range"),
        ("n[" + "9" * 500 + "]", "bad range"),
        ("n" + "9" * 5000 + "[1-2]", "cannot expand"),
        ("1" * 5000, "longer than 1024 characters"),
        ("1" * 5000 + "@n1", "longer than 1024 characters"),
        ("n1,", "operator without operand"),
        (",n1", "operator without operand"),
        ("n1,,n2", "operator without operand"),
        ("n1!n1", "yields no host"),
        ("n1&n2", "yields no host"),
        ("a,bob@b", "'@' or ':'"),
        ("a:22,b", "bad port"),
        ("./run.sh", "not a host"),
        ("make>log", "not a host"),
        ("$(hostname)", "not a host"),
        ("n{1..3}", "not a host"),
        ("#n1", "not a host"),
    ],
)
def test_what_is_no_node_is_refused_in_one_line(text: str, says: str) -> None:
    assert says in refusal(text)
    assert says in refusal(text, "nodes.txt:3")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@nope", "'@nope' yields no host"),
        ("@down", "'@down' yields no host"),
        ("@", "'@' yields no host"),
        ("n1,@nope", "'@nope' yields no host"),
        ("@nope:gpu", "no group source nope"),
        ("@up:gone", "cannot expand '@up:gone'"),
        ("@loop", "cannot expand '@loop'"),
        ("@users", "'@' or ':'"),
    ],
)
@pytest.mark.usefixtures("groups")
def test_a_group_that_yields_nothing_is_refused(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.usefixtures("groups")
def test_no_group_name_reaches_a_shell_with_a_command_in_it(tmp_path: Path) -> None:
    assert "not a host" in refusal("@up:$(touch${IFS}x)")
    assert "not a host" in refusal("@up:`id`")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "text",
    [
        "n[1-100000000]",
        "n[1-10000]x[1-10000]",
        "n[1-600000],m[1-600000]",
        "n[0-99999999999999/10]",
        "n[1-9]!n[1-1000001]",
    ],
)
def test_a_slip_of_the_finger_does_not_fill_the_memory(text: str) -> None:
    assert "more than 1,000,000 hosts" in refusal(text)


def test_unquoted_slots_are_said_to_need_quotes() -> None:
    with pytest.raises(BadInput) as caught:
        entries("host", "slots=4")
    assert str(caught.value) == "--node: 'slots=4' is not a host (quote the whole NODE: 'HOST slots=4')"


def test_long_rubbish_is_not_repeated_whole() -> None:
    assert len(refusal("x" * 100_000 + "/")) < 200


# --- files -------------------------------------------------------------------------------------------------


def origins(data: bytes, tmp_path: Path) -> list[tuple[str, str]]:
    path = tmp_path / "nodes.txt"
    path.write_bytes(data)
    read = read_nodes([], [str(path)], no_stdin)
    return [(entry.node.text, entry.origin.removeprefix(f"{tmp_path}/")) for entry in read]


@pytest.mark.parametrize(
    "data",
    [
        b"# nodes\n\nn1\n \t\n  # more\n n2 slots=2 \n",
        b"# nodes\r\n\r\nn1\r\n \t\r\n  # more\r\n n2 slots=2 \r\n",
        b"\xef\xbb\xbf# nodes\n\nn1\n\n#\nn2",
    ],
)
def test_a_file_has_one_node_a_line_and_comments(data: bytes, tmp_path: Path) -> None:
    assert origins(data, tmp_path) == [("n1", "nodes.txt:3"), ("n2", "nodes.txt:6")]


def test_an_empty_file_has_no_nodes(tmp_path: Path) -> None:
    assert origins(b"", tmp_path) == []


def test_texts_come_before_files_and_stdin_stands_where_it_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}1\n")
    files = [str(tmp_path / "a"), "-", str(tmp_path / "b")]
    read = read_nodes(["t2", "t1"], files, lambda: b"s1\ns2\n")
    assert [entry.node.text for entry in read] == ["t2", "t1", "a1", "s1", "s2", "b1"]
    assert read[4].origin == "stdin:2"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"n1\nn2 slots=x\n", "nodes.txt:2: 'slots=x'"),
        (b"n1\n\n\xff\n", "nodes.txt:3: not UTF-8"),
        (b"n1\nslots=4\n", "nodes.txt:2: 'slots=4' is not a host (write the host before it)"),
        (b"#!/bin/sh\nsleep 10; echo done\n", "nodes.txt:2: 'sleep 10; echo done' looks like a command, not like a"),
        (b"n1\n./run\n", "nodes.txt:2: './run' looks like a command"),
        (b"n1\nmake -k\n", "nodes.txt:2: 'make -k' looks like a command"),
        (b"hostname|sort\n", "nodes.txt:1: 'hostname|sort' looks like a command"),
        (b"n1 4\n", "nodes.txt:1: '4' after 'n1' is not KEY=VALUE (write slots=4)"),
        (b"4/n1\n", "nodes.txt:1: '4/n1' is not a host (write 'n1 slots=4')"),
        (b"n1 slots = 4\n", "nodes.txt:1: 'slots' after 'n1' is not KEY=VALUE (a NODE is a host"),
        (b"n1 color=red\n", "nodes.txt:1: 'color=red' after 'n1': unknown key"),
        (b"n1 # old\n", "nodes.txt:1: '#' after 'n1' is not KEY=VALUE (a comment has a line of its own)"),
        (b"n1\rn2\r", "nodes.txt:1: control"),
    ],
)
def test_an_error_in_a_file_names_file_and_line(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        origins(data, tmp_path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(says)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "no\nsuch"
    for path, says in [(tmp_path, "Is a directory"), (gone, "No such file"), ("/dev/zero", "over 64 MiB")]:
        with pytest.raises(BadInput) as caught:
            read_nodes([], [str(path)], no_stdin)
        assert says in str(caught.value)
        assert str(caught.value).isprintable()


# --- exclusion and slots -----------------------------------------------------------------------------------


def left(listed: list[Entry], *excluded: str) -> list[str]:
    return [entry.node.text for entry in exclude(listed, read_excluded(excluded, [], no_stdin))]


def test_an_excluded_host_goes_whatever_its_user_and_port() -> None:
    listed = entries("n1", "bob@n1:22", "n1:22", "n2", "n1", ":", "[::1]:22")
    assert left(listed, "n1") == ["n2", ":", "[::1]:22"]
    assert left(listed, "n[1-9]", ":", "[::1]") == []


def test_an_excluded_node_with_user_or_port_goes_by_its_text() -> None:
    listed = entries("n1", "bob@n1:22", "n1:22")
    assert left(listed, "n1:22") == ["n1", "bob@n1:22"]
    assert left(listed, "bob@n1") == ["n1", "bob@n1:22", "n1:22"]


def test_an_exclude_file_reads_comments_beside_nodes(tmp_path: Path) -> None:
    path = tmp_path / "evicted"
    path.write_text("# exit 3\nn1\nbob@n2:22  # connection refused\n\nn3 slots=4\t# slow\n")
    listed = entries("n[1-4]", "bob@n2:22")
    assert [entry.node.text for entry in exclude(listed, read_excluded([], [str(path)], no_stdin))] == ["n2", "n4"]


def test_excluding_what_is_not_listed_changes_nothing_and_rubbish_is_refused() -> None:
    listed = entries("n1")
    assert exclude(listed, read_excluded(["n7"], [], no_stdin)) == listed
    with pytest.raises(BadInput, match="--exclude: "):
        read_excluded(["n7/"], [], no_stdin)


def test_slots_of_entries_with_the_same_text_add_up() -> None:
    listed = entries("n1 slots=2", "n2", "n1", "n1:22")
    numbered = [(slot.node.text, slot.number) for slot in slots_of(listed)]
    assert numbered == [("n1", 1), ("n1", 2), ("n2", 1), ("n1", 3), ("n1:22", 1)]


def test_auto_slots_are_one_until_their_number_is_known_and_add_up() -> None:
    entries = [entry for text in ("n1 slots=auto", "n1 slots=2", "n2") for entry in parse_node(text, "f")]
    assert [slot.number for slot in slots_of(entries)] == [1, 2, 3, 1]
    n1 = entries[0].node
    assert [slot.number for slot in slots_of(entries, processors={n1: 3})] == [1, 2, 3, 4, 5, 1]
    assert [slot.number for slot in slots_of(entries, one_each=True, processors={n1: 3})] == [1, 2, 1]


def test_classes_are_a_set_and_those_of_one_node_must_agree() -> None:
    (entry,) = parse_node("n1 class=gpu,big,gpu slots=2", "f:1")
    assert (entry.node.classes, entry.slots) == (("big", "gpu"), 2)
    same = parse_node("n1 class=big,gpu", "f:2")
    assert len(slots_of([entry, *same])) == 3
    with pytest.raises(BadInput, match="f:3: the classes of n1 differ from those at f:1"):
        slots_of([entry, *parse_node("n1", "f:3")])


def test_an_entry_is_one_slot_on_each_node() -> None:
    one_each = slots_of(entries("n1 slots=5", "n[1-2]"), one_each=True)
    assert one_each == [Slot(Node("n1", "n1"), 1), Slot(Node("n1", "n1"), 2), Slot(Node("n2", "n2"), 1)]


def test_the_slots_of_a_run_are_bounded() -> None:
    many = [Entry(Node("n1", "n1"), MOST_HOSTS, "nodes.txt:1"), Entry(Node("n2", "n2"), 1, "nodes.txt:2")]
    with pytest.raises(BadInput, match=r"nodes\.txt:2: more than 1,000,000 slots"):
        slots_of(many)
