"""Templates: what stands for what, in which order, and what is never shown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from clstr.inputs.jobs import JobStream, PinnedJobs
from clstr.inputs.templates import Expanded, Templates, parse_matrix, parse_variables
from clstr.model import BadInput, Job, Machine, Node

LONGEST = 1000

I_J_K = ["I=1,2,3,4", "J=linear,quadratic,exotic", "K=banana,rockingchair,airplane"]
"""The seeds' example."""


def expanded(
    command: bytes, matrix: Sequence[str] = (), variables: dict[str, bytes] | None = None, times: int = 1
) -> list[Expanded]:
    return list(Templates(variables or {}, parse_matrix(matrix), times).expand(command))


def sent(command: bytes, matrix: Sequence[str] = (), variables: dict[str, bytes] | None = None) -> list[bytes]:
    """What a node called ``n1`` gets."""
    pieces = [job.parts or (job.command,) for job in expanded(command, matrix, variables)]
    return [b"".join(b"n1" if isinstance(part, Machine) else part for part in parts) for parts in pieces]


def test_the_example_of_the_seeds_is_36_jobs_in_nested_loop_order() -> None:
    jobs = [job.command.decode() for job in expanded(b"run {I} {J} {K}", I_J_K)]
    assert jobs == [
        f"run {i} {j} {k}"
        for i in ("1", "2", "3", "4")
        for j in ("linear", "quadratic", "exotic")
        for k in ("banana", "rockingchair", "airplane")
    ]
    assert len(jobs) == 36


def test_the_order_of_keys_is_that_of_the_flags_and_not_of_the_command() -> None:
    assert [job.command for job in expanded(b"{B}{A}", ["A=1,2", "B=x,y"])] == [b"x1", b"y1", b"x2", b"y2"]


def test_a_job_is_expanded_over_the_keys_that_it_names_only() -> None:
    jobs = expanded(b"{B} {B}", ["A=1,2", "B=x,y"])
    assert jobs == [Expanded(b"x x", None, (None, "x")), Expanded(b"y y", None, (None, "y"))]
    assert expanded(b"none", ["A=1,2"]) == [Expanded(b"none", None, (None,))]


def test_each_combination_is_run_so_many_times_in_a_row() -> None:
    assert [job.command for job in expanded(b"{A}", ["A=1,2"], times=2)] == [b"1", b"1", b"2", b"2"]
    assert [job.command for job in expanded(b"a", times=3)] == [b"a"] * 3


def test_what_is_shown_has_the_names_of_variables_and_what_is_sent_their_values() -> None:
    job = expanded(b"{A} {KEY} at {MACHINE}.", ["A=1"], {"KEY": b"s3cret"})[0]
    assert job.command == b"1 {KEY} at {MACHINE}."
    assert job.parts == (b"1 s3cret at ", Machine.MACHINE, b".")


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (b"${A} $A {A}", b"${A} $A 1"),
        (b'{"MACHINE"} {"A"}', b'{"MACHINE"} {"A"}'),
        (b"{B} {a} {} {A B} { A } {A", b"{B} {a} {} {A B} { A } {A"),
        (b"{{A}} {x{A}}", b"{1} {x1}"),
        (b"{MACHINE}{A}{MACHINE}", b"n11n1"),
        (b"${MACHINE} $(hostname) {1..3}", b"${MACHINE} $(hostname) {1..3}"),
        (b"\xff{A}\xfe", b"\xff1\xfe"),
    ],
)
def test_only_defined_names_are_replaced_and_never_behind_a_dollar(command: bytes, becomes: bytes) -> None:
    assert sent(command, ["A=1"]) == [becomes]


def test_there_is_one_pass() -> None:
    assert sent(b"{A}{V}", ["A={V}"], {"V": b"{A}{MACHINE}"}) == [b"{V}{A}{MACHINE}"]


def test_a_matrix_key_wins_over_a_variable() -> None:
    assert expanded(b"{A}", ["A=1,2"], {"A": b"hidden"}) == [Expanded(b"1", None, ("1",)), Expanded(b"2", None, ("2",))]


def test_values_that_are_not_utf_8_stay_the_bytes_that_they_are() -> None:
    assert sent(b"{A}{V}", [os.fsdecode(b"A=\xff")], {"V": b"\xfe"}) == [b"\xff\xfe"]


def test_a_comma_in_a_value_has_a_backslash() -> None:
    assert parse_matrix([r"A=a\,b,c\d,,"]) == {"A": ["a,b", r"c\d", "", ""]}


def test_a_variable_may_come_from_the_environment() -> None:
    assert parse_variables(["A", "B=x=y", "C="], {"A": "1", "B": "2"}) == {"A": b"1", "B": b"x=y", "C": b""}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["A"], "--var A: the environment has no A ("),
        (["s3cret!"], "--var ...: bad name ("),
        (["1=s3cret"], "--var 1: bad name ("),
        (["=s3cret"], "--var : bad name ("),
        (["MACHINE=s3cret"], "--var MACHINE: {MACHINE} is the node's name ("),
        (["A=s3cret", "A=s3cret"], "--var A: is given twice ("),
    ],
)
def test_what_is_wrong_with_a_variable_is_said_without_its_value(texts: list[str], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_variables(texts, {})
    assert str(caught.value).startswith(says)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["A"], "--matrix A: no values ("),
        (["A="], "--matrix A: no values ("),
        (["=1"], "--matrix : bad name ("),
        (["a-b=1"], "--matrix a-b: bad name ("),
        (["MACHINE=1"], "--matrix MACHINE: {MACHINE} is the node's name ("),
        (["A=1", "A=2"], "--matrix A: is given twice ("),
    ],
)
def test_what_is_wrong_with_a_matrix(texts: list[str], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_matrix(texts)
    assert str(caught.value).startswith(says)


def test_no_value_of_a_variable_is_in_the_words_of_a_job_or_of_templates() -> None:
    templates = Templates({"V": b"s3cret"})
    [job] = JobStream([b"{V}"], [], longest=LONGEST, templates=templates).at_hand(1)
    assert "s3cret" not in f"{job!r} {templates!r}"


# --- as streams --------------------------------------------------------------------------------------------


def stream(commands: list[bytes], files: list[Path], templates: Templates, listed: int = 0) -> list[Job]:
    """All jobs of a stream."""

    async def read() -> list[Job]:
        made = JobStream(commands, [str(file) for file in files], longest=LONGEST, templates=templates, listed=listed)
        made.start(asyncio.get_running_loop())
        jobs: list[Job] = []
        async with asyncio.timeout(30):
            while batch := await made.next(7):
                jobs += batch
        assert made.seen == (len(jobs) + listed, True)
        return jobs

    return asyncio.run(read())


def test_texts_and_files_are_expanded_alike_and_numbered_around_what_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "jobs.txt"
    file.write_bytes(b"plain\nf {A}\n")
    jobs = stream([b"t {A}", b"u"], [file], Templates(matrix=parse_matrix(["A=1,2"]), times=2), listed=10)
    assert [(job.id, job.command.decode(), job.matrix) for job in jobs] == [
        (1, "t 1", ("1",)),
        (2, "t 1", ("1",)),
        (3, "t 2", ("2",)),
        (4, "t 2", ("2",)),
        (5, "u", (None,)),
        (6, "u", (None,)),
        (17, "plain", (None,)),
        (18, "plain", (None,)),
        (19, "f 1", ("1",)),
        (20, "f 1", ("1",)),
        (21, "f 2", ("2",)),
        (22, "f 2", ("2",)),
    ]


def test_many_combinations_are_made_as_they_are_asked_for() -> None:
    matrix = parse_matrix([f"{key}={','.join('0123456789')}" for key in "ABCDEFGHIJKL"])
    made = JobStream([b"{A}{B}{C}{D}{E}{F}{G}{H}{I}{J}{K}{L}"], [], longest=LONGEST, templates=Templates({}, matrix))
    assert made.seen == (10**12, True)
    assert [job.command for job in made.at_hand(12)][-1] == b"000000000011"
    assert [job.id for job in made.at_hand(2)] == [13, 14]


def test_jobs_on_each_node_are_expanded_node_by_node() -> None:
    nodes = [Node("n1", "n1"), Node("n2", "n2")]
    made = PinnedJobs(b"{A}", nodes, longest=LONGEST, templates=Templates(matrix={"A": ["1", "2"]}))
    assert made.seen == (4, True)
    jobs = [*made.at_hand(3), *made.at_hand(3)]
    assert [(job.id, job.command, job.pin and job.pin.text) for job in jobs] == [
        (1, b"1", "n1"),
        (2, b"2", "n1"),
        (3, b"1", "n2"),
        (4, b"2", "n2"),
    ]


def test_a_key_that_no_job_names_is_found_at_once_where_all_are_known() -> None:
    templates = Templates(matrix={"A": ["1"]})
    with pytest.raises(BadInput, match=r"^--matrix A: no job names \{A\} \("):
        JobStream([b"a"], [], longest=LONGEST, templates=templates)
    with pytest.raises(BadInput, match=r"^--matrix A: no job names \{A\} \("):
        PinnedJobs(b"a", [], longest=LONGEST, templates=templates)
    list(templates.combinations(b"x", b"{A}"))  # a job of a submit file, which is read before
    JobStream([b"a"], [], longest=LONGEST, templates=templates)


def test_a_key_that_no_job_names_is_found_at_the_end_of_the_stream(tmp_path: Path) -> None:
    file = tmp_path / "jobs.txt"
    file.write_bytes(b"{A}\n")
    templates = Templates(matrix={"A": ["1"], "B": ["2"]})
    with pytest.raises(BadInput, match=r"^--matrix B: no job names \{B\} \("):
        stream([b"t"], [file], templates)
    file.write_bytes(b"{A}\n{B}\n")
    assert len(stream([b"t"], [file], Templates(matrix={"A": ["1"], "B": ["2"]}))) == 3


def test_a_command_is_checked_as_it_is_sent(tmp_path: Path) -> None:
    templates = Templates({"V": b"x" * LONGEST, "E": b" "}, {"A": ["", "x" * LONGEST]})
    for command in (b"{V}y", b"{A}y"):
        with pytest.raises(BadInput, match=r"^--job: job of more than 1,000 bytes"):
            templates.check(command, "--job", LONGEST)
    for command in (b"{E}{A}", b" {E}"):
        with pytest.raises(BadInput, match=r"^--job: empty command"):
            templates.check(command, "--job", LONGEST)
    file = tmp_path / "jobs.txt"
    file.write_bytes(b"one\n{V}y\n")
    with pytest.raises(BadInput, match=r"jobs\.txt:2: job of more than"):
        stream([], [file], templates)


def test_the_longest_node_is_counted() -> None:
    templates = Templates(longest_node=10)
    templates.check(b"{MACHINE}" * 2, "--job", 20)
    with pytest.raises(BadInput, match="job of more than 20 bytes"):
        templates.check(b"{MACHINE}" * 3, "--job", 20)


def test_what_a_generator_of_jobs_gives_is_whole_however_it_is_taken() -> None:
    templates = Templates(matrix=parse_matrix(I_J_K))
    made = JobStream([b"{I} {J} {K}", b"x"], [], longest=LONGEST, templates=templates)
    pieces = [made.at_hand(count) for count in (1, 5, 100, 1)]
    assert [len(piece) for piece in pieces] == [1, 5, 31, 0]
    commands = [job.command for piece in pieces for job in piece]
    assert commands[:36] == [job.command for job in islice(templates.expand(b"{I} {J} {K}"), 36)]
