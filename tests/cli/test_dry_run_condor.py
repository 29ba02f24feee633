"""``--dry-run=condor``: whole files, and each read by HTCondor's own parser."""

from __future__ import annotations

import argparse
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clstr.cli.dry.condor import SubmitFile
from clstr.cli.flags import parser
from clstr.inputs.submit import Settings, read_submit_files
from clstr.inputs.templates import Templates
from clstr.model import BadInput, Job, Terms

htcondor2 = pytest.importorskip("htcondor2", reason="HTCondor's Python bindings are not installed")


TOKENS = {"license": 4, "disk": 2}


def flags(*words: str) -> argparse.Namespace:
    return parser().parse_args(["--dry-run=condor", *words])


def job(command: str | bytes, **said: Any) -> Job:
    return Job(1, command if isinstance(command, bytes) else command.encode(), "jobs.txt:7", **said)


def written(*jobs: Job, given: tuple[str, ...] = ()) -> str:
    form = SubmitFile(flags(*given), TOKENS)
    body = b"".join(map(form.add, jobs)) + form.end()
    return (form.head() + body).decode()


def body(text: str) -> str:
    """The file without its head."""
    return text.partition("transfer_executable = false\n")[2]


def read(text: str) -> Iterator[dict[str, str]]:
    """What HTCondor makes of each job, macros expanded. Its parser stops at a ``queue``: it gets the file in parts."""
    *parts, rest = re.split(r"(?m)^(queue(?: .*\((?:\n\".*)*\n\))?)$", text)
    assert rest.strip() == ""
    for keys, queue in zip(parts[::2], parts[1::2], strict=True):
        submit = htcondor2.Submit(in_force(text, keys) + queue + "\n")
        items = submit.itemdata() if "from" in queue else [{}]
        for item in items:
            for key, value in item.items():
                submit[key] = value
            yield {key: submit.expand(key) for key in submit if submit[key]}


def in_force(text: str, keys: str) -> str:
    """All lines with keys up to these."""
    before = text[: text.index(keys) + len(keys)]
    return re.sub(r"(?m)^(queue.*|\".*|\))\n", "", before)


def words(arguments: str) -> list[str]:
    """The words of arguments in HTCondor's new syntax, by its rules and not by ours (condor_submit(1))."""
    assert arguments[0] == arguments[-1] == '"'
    text, found, within = arguments[1:-1].replace('""', '"'), [], False
    word: str | None = None
    position = 0
    while position < len(text):
        letter = text[position]
        if letter == "'":
            if within and text[position + 1 : position + 2] == "'":
                word, position = (word or "") + "'", position + 1
            else:
                within, word = not within, word or ""
        elif letter in " \t\n\r\f\v" and not within:
            if word is not None:
                found.append(word)
            word = None
        else:
            word = (word or "") + letter
        position += 1
    return found if word is None else [*found, word]


def commands(text: str) -> list[list[str]]:
    return [[said["executable"], *words(said["arguments"])] for said in read(text)]


def test_a_whole_file() -> None:
    jobs = [
        job("./prepare 'a b'", name="prep", budget=2),
        job("./sim 1", job_class="gpu", terms=Terms(priority=5, tokens=(("disk", 1), ("license", 2)))),
        job("./sim 2", job_class="gpu", terms=Terms(priority=5, tokens=(("disk", 1), ("license", 2)))),
        job("echo $HOME | wc", terms=Terms(hold=True, output="out", environment=(("A", b"1"), ("B", b"x 'y'")))),
    ]
    assert written(*jobs, given=("-C", "/data")) == """\
# for condor_submit, by clstr --dry-run=condor
# what a job prints is dropped where output and error name no files for it
# machines of a class must say so: Class = "gpu" and STARTD_ATTRS = $(STARTD_ATTRS) Class in their settings
# the pool's settings must limit disk: DISK_LIMIT = 2
# the pool's settings must limit license: LICENSE_LIMIT = 4
transfer_executable = false

executable = ./prepare
+Name = "prep"
remote_initialdir = /data
max_retries = 2
arguments = "'a b'"
queue

executable = ./sim
+Name =
max_retries =
+Class = "gpu"
requirements = stringListMember(MY.Class, TARGET.Class)
priority = 5
concurrency_limits = disk:1, license:2
queue arguments from (
"1"
"2"
)

executable = /bin/sh
+Class =
requirements =
priority =
concurrency_limits =
output = out
environment = "A=1 'B=x ''y'''"
hold = True
arguments = "-c 'echo $HOME | wc'"
queue
"""


def test_the_head_says_what_is_otherwise_with_htcondor() -> None:
    assert written(job("./sim", terms=Terms(output="out"))).startswith(
        "# for condor_submit, by clstr --dry-run=condor\n"
        "# a job without remote_initialdir runs in a directory of HTCondor's, not in the home directory\n"
        "transfer_executable = false\n"
    )


def test_htcondor_reads_what_each_job_was() -> None:
    jobs = [
        job("./sim 1", name="sim.1", job_class="gpu", budget=0),
        job("./sim 2", terms=Terms(directory=b"/d e", input="in", output="o$(x)", error="e", priority=-1)),
        job("./sim 3", terms=Terms(directory=b"/d e", input="in", output="o$(x)", error="e", priority=-1)),
        job("./sim 4", terms=Terms(tokens=(("license", 2),), hold=True, environment=(("A", b"$(B) \"c\""),))),
    ]
    common = {"transfer_executable": "false", "executable": "./sim"}
    requirements = "stringListMember(MY.Class, TARGET.Class)"
    told = {"remote_initialdir": "/d e", "input": "in", "output": "o$(x)", "error": "e", "priority": "-1"}
    assert list(read(written(*jobs))) == [
        common
        | {"arguments": '"1"', "MY.Name": '"sim.1"', "MY.Class": '"gpu"', "max_retries": "0"}
        | {"requirements": requirements},
        common | {"arguments": '"2"'} | told,
        common | {"arguments": '"3"'} | told,
        common
        | {"arguments": '"4"', "concurrency_limits": "license:2", "hold": "True"}
        | {"environment": '"\'A=$(B) ""c""\'"'},
    ]


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("./sim", ["./sim"]),
        ("/usr/bin/sim -x 1 '' 'a  b'", ["/usr/bin/sim", "-x", "1", "", "a  b"]),
        ("./sim '$(Process)' '$x'", ["./sim", "$(Process)", "$x"]),
        ("'./a b' c", ["./a b", "c"]),
        ("./sim \"a  b\" it\\'s'' 'x'y", ["./sim", "a  b", "it's", "xy"]),
    ],
)
def test_a_program_with_a_path_and_quoted_words_needs_no_shell(command: str, argv: list[str]) -> None:
    assert commands(written(job(command))) == [argv]


@pytest.mark.parametrize(
    "command",
    [
        "echo a",  # looked for in PATH
        "./sim  1",
        "./sim $HOME",
        "./sim *",
        "~/sim",
        "A=/b ./sim",
        "./a; ./b",
        "./sim 'a",
        './sim "$a"',
        './sim "a!b"',
        "./sim \\$",
        "./sim # nothing",
        " ./sim",
        "echo \"it's $(date)\" $ENV(x) $$ $5 ${a} \\",
        "a\tb\rc\x01d\x7f",
        "printf 'größe\u2028'",
    ],
)
def test_any_other_line_is_a_shells(command: str) -> None:
    assert commands(written(job(command))) == [["/bin/sh", "-c", command]]


def any_lines() -> list[str]:
    """Lines of all letters that the form can hold, those that mean something there more often."""
    chance = random.Random(5)
    letters = "".join(map(chr, range(1, 127))).replace("\n", "").replace("\x1f", "") + "é€" + "$($('\"\\ #),=" * 9
    lines = ["".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(3000)]
    return [line for line in lines if not re.search(r"\$\$\w*\(", line, re.ASCII)]


def is_the_line(argv: list[str], line: str) -> bool:
    return argv == ["/bin/sh", "-c", line] or argv == shlex.split(line)


def test_lines_of_any_letters_come_through_htcondor() -> None:
    lines = any_lines()
    got = commands(written(*map(job, lines)))
    assert [line for line, argv in zip(lines, got, strict=True) if not is_the_line(argv, line)] == []


def test_lines_of_any_letters_are_read_back(tmp_path: Path) -> None:
    lines = any_lines()
    got = [shlex.split(one.command.decode()) for one in read_back(written(*map(job, lines)), tmp_path / "a.sub")]
    assert [line for line, argv in zip(lines, got, strict=True) if not is_the_line(argv, line)] == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (job("a\nb"), "jobs.txt:7: the command has a newline or a unit separator in it (put it into a script)"),
        (job("a\x1fb"), "jobs.txt:7: the command has a newline or a unit separator in it (put it into a script)"),
        (job(b"a \xff"), "jobs.txt:7: the command has bytes that are not UTF-8 (put it into a script)"),
        (
            job("echo $$(Memory)"),
            "jobs.txt:7: HTCondor would fill $$(...) in (write it otherwise, or put it into a script)",
        ),
    ],
)
def test_what_the_form_cannot_hold_is_refused(said: Job, words: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(words)}$"):
        written(job("fine"), said)


def read_back(text: str, path: Path) -> list[Job]:
    """What ``--submit`` makes of it."""
    path.write_text(text)
    settings = Settings(Templates(), 1 << 20, tokens=TOKENS)
    jobs, _ = read_submit_files([str(path)], 1, settings, lambda: b"", {})
    return jobs


def said(job: Job) -> tuple[Any, ...]:
    """All of a job but its place."""
    return job.command, job.name, job.budget, job.job_class, job.terms


def test_submit_reads_back_the_same_jobs(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    jobs = [
        job("./sim 1", name="sim.1", job_class="gpu", budget=0),
        job("./sim 2", terms=Terms(directory=b"/d e", input=str(tmp_path / "in"), output="o$(x)", error="e")),
        job("./sim 3"),
        job("./sim 4 'a  b' 'it'\\''s' '$(date)' '' '\"' '{X}'"),
        job("./sim 5", terms=Terms(tokens=(("disk", 1), ("license", 2)), hold=True)),
        job("'./a b'", budget=3, terms=Terms(environment=(("A", b"$(B) \"c\""), ("D", b"it's")))),
    ]
    assert list(map(said, read_back(written(*jobs), tmp_path / "a.sub"))) == list(map(said, jobs))


def test_submit_reads_back_lines_of_the_shell(tmp_path: Path) -> None:
    lines = ["echo a", "echo 'it''s' $(date) | wc", "./a; ./b", "{X} \t\r\x7f é"]
    once = read_back(written(*map(job, lines)), tmp_path / "a.sub")
    assert [shlex.split(one.command.decode()) for one in once] == [["/bin/sh", "-c", line] for line in lines]
    twice = read_back(written(*once), tmp_path / "b.sub")
    assert list(map(said, twice)) == list(map(said, once))
