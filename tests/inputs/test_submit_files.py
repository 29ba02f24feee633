"""Submit files: what each key means, what is wrong with it, and who waits for whom over several files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from instructions import Instructions

from clstr.inputs.submit import Settings, parse_tokens, read_submit_files
from clstr.inputs.templates import Templates, parse_matrix
from clstr.model import NO_TERMS, BadInput, Barrier, Job

LONGEST = 1000


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*texts: str | bytes, warned: list[str] | None = None, first: int = 1, **settings: object) -> list[Job]:
    """The jobs of files ``0.sub``, ``1.sub`` and so on."""
    for number, text in enumerate(texts):
        Path(f"{number}.sub").write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {"templates": Templates(), "longest": LONGEST, **settings}
    files = [f"{number}.sub" for number in range(len(texts))]
    jobs, warnings = read_submit_files(files, first, Settings(**options), bytes, os.environ)  # type: ignore[arg-type]
    assert warnings == [] if warned is None else True
    if warned is not None:
        warned += warnings
    return jobs


def refusal(*texts: str | bytes, **settings: object) -> str:
    with pytest.raises(BadInput) as caught:
        read(*texts, **settings)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(")")
    return str(caught.value)


def names_in(barrier: Barrier | None, jobs: list[Job]) -> list[str]:
    """The names of those that are waited for."""
    if barrier is None:
        return []
    names = [jobs[number - jobs[0].id].name or "" for number in barrier.jobs]
    return sorted([*names, *(name for inner in barrier.barriers for name in names_in(inner, jobs))])


def waits(jobs: list[Job]) -> dict[str, list[str]]:
    return {job.name or "": names_in(job.terms.after, jobs) for job in jobs}


# --- keys --------------------------------------------------------------------------------------------------


def test_a_file_in_the_form_of_jrs_is_its_jobs() -> None:
    text = """
Universe   = vanilla
Executable = /bin/sim
InitialDir = /home/me/run
Arguments  = -x 1 --opt=5
Queue
Arguments  = -x 2
Queue 2
"""
    warned: list[str] = []
    jobs = read(text, warned=warned)
    assert [(job.id, job.command, job.origin) for job in jobs] == [
        (1, b"/bin/sim -x 1 --opt=5", "0.sub:6"),
        (2, b"/bin/sim -x 2", "0.sub:8"),
        (3, b"/bin/sim -x 2", "0.sub:8"),
    ]
    assert {job.terms.directory for job in jobs} == {b"/home/me/run"}
    assert warned == ["submit files: keys that mean nothing here are ignored: universe"]


def test_the_example_with_everything() -> None:
    text = """
executable = ./sim
+Name = "sim.$(Process)"
+Class = "gpu"
+After = "prep"
concurrency_limits = license:2
arguments = "--seed $(Process) --opt=5"
output = out.$(Process)
queue 4
executable = ./prep
+Name = "prep"
+After =
queue
"""
    jobs = read(text, tokens={"license": 2})
    assert [job.command for job in jobs[:2]] == [b"./sim --seed 0 --opt=5", b"./sim --seed 1 --opt=5"]
    assert [job.name for job in jobs] == ["sim.0", "sim.1", "sim.2", "sim.3", "prep"]
    assert jobs[3].terms.output == "out.3"
    assert jobs[0].terms.tokens == (("license", 2),)
    assert jobs[0].job_class == "gpu"
    assert names_in(jobs[0].terms.after, jobs) == ["prep"]
    assert jobs[4].terms.after is None


def test_what_each_key_gives_a_job() -> None:
    text = """
executable = run
environment = "A=1 B='x y'"
initialdir = /a
remote_initialdir = /b
input = 0.sub
output = o
error = e
priority = -3
max_retries = 2
hold = True
concurrency_limits = b:2, A
+Timeout = "10m"
queue
"""
    [job] = read(text, tokens={"a": 1, "b": 2})
    terms = job.terms
    assert terms.environment == (("A", b"1"), ("B", b"x y"))
    assert terms.directory == b"/b"
    assert (terms.input, terms.output, terms.error) == ("0.sub", "o", "e")
    assert (terms.priority, terms.hold, terms.timeout, job.budget) == (-3, True, 600, 2)
    assert terms.tokens == (("a", 1), ("b", 2))


def test_an_empty_value_takes_back_what_was_said() -> None:
    keys = ["environment = A=1", "initialdir = /a", "output = o", "priority = 3", "max_retries = 2", "hold = True"]
    keys += ["concurrency_limits = a", "+Timeout = 90", '+Name = "n"', '+Class = "c"', "input = 0.sub", "error = e"]
    cleared = [f"{key.split('=')[0]}=" for key in keys]
    jobs = read("\n".join(["executable = x", *keys, "queue", *cleared, "queue"]), tokens={"a": 1}, budget=7)
    assert jobs[0].terms.timeout == 90
    assert (jobs[1].terms, jobs[1].name, jobs[1].job_class, jobs[1].budget) == (NO_TERMS, None, None, 7)


def test_the_flags_hold_where_the_file_says_nothing() -> None:
    text = 'executable = x\nqueue\n+Class = "b"\nmax_retries = 0\nqueue\n'
    assert [(job.job_class, job.budget) for job in read(text, job_class="a", budget=5)] == [("a", 5), ("b", 0)]


def test_second_names_of_keys_mean_the_same() -> None:
    text = "executable = x\nprio = 3\nenv = A=1\ninitial_dir = /a\nqueue\n"
    terms = read(text)[0].terms
    assert (terms.priority, terms.environment, terms.directory) == (3, (("A", b"1"),), b"/a")


def test_a_variable_of_queue_may_be_any_name_of_a_key() -> None:
    jobs = read("executable = x\nqueue prio, stdout from (\n1 a\n5 b\n)\n")
    assert [(job.terms.priority, job.terms.output) for job in jobs] == [(1, "a"), (5, "b")]
    jobs = read("executable = x\npriority = 2\nqueue prio in (1)\n")  # as in HTCondor, the first name wins
    assert jobs[0].terms.priority == 2
    assert refusal("executable = x\nqueue arguments2 in (a)\n").startswith("0.sub:2: arguments2 is not known here (")
    warned: list[str] = []
    read("executable = x\nqueue request_cpus in (1)\n", warned=warned)
    assert warned == ["submit files: keys that mean nothing here are ignored: request_cpus"]


def test_arguments_reach_the_program_as_they_are() -> None:
    text = b"executable = /a b\narguments = \"'it''s' $HOME \\ \xff * ''\"\nqueue\n"
    assert read(text)[0].command == b"'/a b' 'it'\\''s' '$HOME' '\\' '\xff' '*' ''"


def test_templates_go_into_the_command_and_the_name() -> None:
    text = 'executable = x\narguments = "{I} ${I} {V} {MACHINE} \'a {J}\'"\n+Name = "n.{I}.{J}"\nqueue\n'
    templates = Templates({"V": b"it's"}, parse_matrix(["I=1", "J=b,c d", "K=z"]))
    with pytest.raises(BadInput, match=r"0\.sub:3: \+Name 'n\.1\.c d' cannot name files"):
        read(text, templates=templates)
    templates = Templates({"V": b"it's"}, parse_matrix(["I=1", "J=b,c'd", "K=z"]))
    text = text.replace("n.{I}.{J}", "n.{I}")
    with pytest.raises(BadInput, match=r"'n\.1' too"):
        read(text, templates=templates)
    jobs = read(text.replace('+Name = "n.{I}"', ""), templates=templates)
    assert [job.matrix for job in jobs] == [("1", "b", None), ("1", "c'd", None)]
    assert jobs[1].command == b"x '1' '${I}' '{V}' '{MACHINE}' 'a c'\\''d'"
    assert jobs[1].parts is not None
    assert jobs[1].parts[0] == b"x '1' '${I}' 'it'\\''s' '"
    assert "it'" not in repr(jobs[1])


def test_a_job_that_names_a_key_only_in_its_name_is_expanded() -> None:
    jobs = read('executable = x\n+Name = "n{I}"\nqueue\n', templates=Templates(matrix={"I": ["1", "2"]}))
    assert [job.name for job in jobs] == ["n1", "n2"]


def test_each_file_is_a_cluster_with_processes_of_its_own() -> None:
    text = "executable = x\narguments = $(Cluster).$(Process)\nqueue 2\n"
    assert [job.command for job in read(text, text)] == [b"x 1.0", b"x 1.1", b"x 2.0", b"x 2.1"]


def test_a_file_may_be_standard_input() -> None:
    settings = Settings(Templates(), LONGEST)
    jobs, _ = read_submit_files(["-"], 1, settings, lambda: b"executable = x\nqueue\n", {})
    assert (jobs[0].command, jobs[0].origin) == (b"x", "stdin:2")


def test_one_warning_names_all_keys_that_mean_nothing() -> None:
    warned: list[str] = []
    text = "executable = x\nlog = l\nRequest_Memory = 1\n+Project = 3\nmine = 4\nqueue\n"
    read(text, text, warned=warned)
    assert warned == ["submit files: keys that mean nothing here are ignored: +project, log, request_memory"]


def test_two_jobs_with_one_output_are_warned_of() -> None:
    warned: list[str] = []
    read("executable = x\noutput = o\nerror = o\nqueue\noutput = ./o\nerror = /dev/null\nqueue\n", warned=warned)
    assert len(warned) == 1
    assert warned[0].endswith("o: 2 jobs write it, one over the other (put $(Process) into its name)")
    read("executable = x\noutput = o.$(Process)\nerror = o.$(Process)\nqueue 3\n")
    read(named("a", more="output = o") + named("b"), only=["b"])


# --- each broken once --------------------------------------------------------------------------------------

BROKEN = {
    'arguments = "a': "arguments",
    "arguments = a \"b\" c": "a \" that is neither",
    "environment = A": "an entry that is not NAME=VALUE",
    "priority = high": "bad number 'high'",
    "max_retries = -1": "bad number '-1'",
    "hold = maybe": "'maybe' is neither True nor False",
    "concurrency_limits = a:0": "bad claim 'a:0'",
    "concurrency_limits = a:": "bad claim 'a:'",
    "concurrency_limits = a:x": "bad claim 'a:x'",
    "concurrency_limits = b": "no token 'b' is declared (declare it: --token b=N)",
    "concurrency_limits = a, A": "'a' is claimed twice",
    "concurrency_limits = a:3": "3 of the token 'a', which has 2",
    "+Name = n": '+Name is not a text in double quotes (write +Name = "...")',
    '+Name = "a/b"': "+Name 'a/b' cannot name files",
    '+Name = ".."': "+Name '..' cannot name files",
    '+Name = "a b"': "+Name 'a b' cannot name files",
    '+Name = "a*"': "+Name 'a*' cannot name files",
    '+Name = "a\x1b"': "+Name 'a\\x1b' cannot name files",
    f'+Name = "{"n" * 201}"': f"+Name {'n' * 20}... is too long",
    "+Class = gpu": "+Class is not a text in double quotes",
    "+After = prep": "+After is not a text in double quotes",
    '+After = "nobody"': "+After 'nobody': no job has that name",
    '+After = "no*"': "+After 'no*': no job has that name",
    "+Timeout = 10m": "+Timeout is not a text in double quotes",
    "+Timeout = 0": "'0' is not a duration",
    '+Timeout = "long"': "'\"long\"' is not a duration",
    "input = missing": "input missing: No such file or directory (name a file that is there)",
    "input = .": "input .: Is a directory",
    "input = 0.sub\noutput = ./0.sub": "./0.sub is both read and written",
    "arguments2 = x": "arguments2 is not known here",
    "shell = x": "shell is not known here",
    f"executable = {'x' * 1001}": "job of more than 1,000 bytes",
}


@pytest.mark.parametrize("line", BROKEN)
def test_what_is_wrong_with_a_key_is_told_with_its_line(line: str) -> None:
    said = refusal(f"executable = x\n\n{line}\n\nqueue\n", tokens={"a": 2})
    assert said.startswith("0.sub:3: ")
    assert BROKEN[line] in said or BROKEN[line] == "arguments"


def test_a_job_without_executable_is_told_with_the_line_of_queue() -> None:
    assert refusal("arguments = x\n\nqueue\n").startswith("0.sub:3: no executable (")
    assert refusal("executable = x\nqueue\nexecutable =\nqueue\n").startswith("0.sub:4: no executable (")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    for path, why in (("missing", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(BadInput) as caught:
            read_submit_files([path], 1, Settings(Templates(), LONGEST), bytes, {})
        assert str(caught.value) == f"{path}: {why} (give a submit file)"


@pytest.mark.parametrize("text", ["a", "a=", "a=0", "a=-1", "a=x", "=1", "a b=1"])
def test_a_token_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=f"^--token {text}: bad "):
        parse_tokens([text])


def test_tokens_know_no_case() -> None:
    assert parse_tokens(["License=2", "b.c=1"]) == {"license": 2, "b.c": 1}
    with pytest.raises(BadInput, match="is given twice"):
        parse_tokens(["a=1", "A=2"])


# --- names, groups and globs -------------------------------------------------------------------------------


def named(name: str, after: str = "", more: str = "") -> str:
    return f'executable = {name or "x"}\n+Name = "{name}"\n+After = "{after}"\n{more}\nqueue\n'


def several(*jobs: tuple[str, str]) -> str:
    return "".join(named(name, after) for name, after in jobs)


def test_names_may_come_later_and_stand_in_other_files() -> None:
    jobs = read(several(("b", "a, c d")), several(("a", ""), ("c", ""), ("d", "c")))
    assert waits(jobs) == {"a": [], "b": ["a", "c", "d"], "c": [], "d": ["c"]}


def test_a_group_is_its_name_and_all_with_a_dot_behind_it() -> None:
    jobs = read(several(("t", ""), ("t.1", ""), ("t.2.x", ""), ("tt", ""), ("z", "t"), ("y", "t.2"), ("x", "t.1")))
    assert waits(jobs)["z"] == ["t", "t.1", "t.2.x"]
    assert waits(jobs)["y"] == ["t.2.x"]
    assert waits(jobs)["x"] == ["t.1"]


def test_a_glob_runs_over_dots() -> None:
    jobs = read(several(("t.1", ""), ("t.2.x", ""), ("u1", ""), ("z", "t*"), ("y", "[tu]?1")))
    assert waits(jobs)["z"] == ["t.1", "t.2.x"]
    assert waits(jobs)["y"] == ["t.1"]


def test_a_group_or_a_glob_does_not_mean_the_job_that_waits_for_it() -> None:
    jobs = read(several(("t.1", ""), ("t.2", ""), ("t.end", "t"), ("z", "t")))
    assert waits(jobs)["t.end"] == ["t.1", "t.2"]
    assert waits(jobs)["z"] == ["t.1", "t.2", "t.end"]
    jobs = read(several(("a", ""), ("b", ""), ("end", "*")))
    assert waits(jobs)["end"] == ["a", "b"]


def test_jobs_after_the_same_words_share_one_barrier() -> None:
    text = several(*((f"a.{n}", "") for n in range(3)), *((f"b.{n}", "a.*, a.0") for n in range(3)))
    barriers = {job.terms.after for job in read(text) if job.terms.after is not None}
    [barrier] = barriers
    assert barrier.words == "a.*, a.0"
    assert len(barrier.barriers[0].jobs) == 3


@pytest.mark.parametrize(
    ("jobs", "circle"),
    [
        ([("a", "a")], "0.sub:3: a after a"),
        ([("a", "b"), ("b", "c"), ("c", "a")], "0.sub:3: a after b after c after a"),
        ([("z", "a"), ("a", "b"), ("b", "a")], "0.sub:8: a after b after a"),
        ([("t.1", "u.*"), ("u.1", "t.*")], "0.sub:3: t.1 after u.1 after t.1"),
        ([("t.1", "t"), ("t.2", "t")], "0.sub:8: t.2 after t.1 after t.2"),
        ([("a", "*"), ("b", "*")], "0.sub:8: b after a after b"),
        ([("t.1", ""), ("t.2", "u"), ("u.1", "t")], "0.sub:8: t.2 after u.1 after t.2"),
    ],
)
def test_jobs_that_wait_for_each_other_are_shown(jobs: list[tuple[str, str]], circle: str) -> None:
    assert refusal(several(*jobs)) == f"{circle} (break the circle)"


def test_a_long_circle_is_cut() -> None:
    said = refusal(several(*((f"j{n}", f"j{(n + 1) % 2000}") for n in range(2000))))
    assert said == "0.sub:3: " + " after ".join([*(f"j{n}" for n in range(8)), "...", "j0"]) + " (break the circle)"


def test_names_are_unique_over_all_files() -> None:
    assert refusal(several(("a", "")), several(("b", ""), ("a", ""))).startswith(
        "1.sub:7: the job at 0.sub:2 is 'a' too (put $(Process)"
    )


def test_only_chosen_jobs_and_those_before_them_are_left() -> None:
    text = several(("a", ""), ("b", "a"), ("c.1", "b"), ("c.2", "a"), ("d", ""), ("", "a"))
    jobs = read(text, only=["c.1"], first=5)
    assert [(job.id, job.name) for job in jobs] == [(5, "a"), (6, "b"), (7, "c.1")]
    assert waits(jobs) == {"a": [], "b": ["a"], "c.1": ["b"]}
    assert [job.name for job in read(text, only=["c"])] == ["a", "b", "c.1", "c.2"]
    assert [job.name for job in read(text, only=["d", "?"])] == ["a", "b", "d"]
    assert refusal(text, only=["x*"]).startswith("--only x*: no job has that name (")


@pytest.mark.parametrize("at_once", [1, 100])
def test_an_input_may_be_made_by_a_job_before(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("clstr.inputs.after.AT_ONCE", at_once)
    made = named("a", more="output = made") + named("b", "a", more="output =")
    jobs = read(made + named("c", "b", more="output =\ninput = ./made"))
    assert jobs[2].terms.input == "./made"
    other = named("0", more="error = other")
    jobs = read(made, other, named("c", "b", more="input = made"), named("d", "0", more="input = other"))
    assert [job.terms.input for job in jobs[3:]] == ["made", "other"]
    said = refusal(made + named("c", more="output =\ninput = made"))
    assert "input made: No such file or directory (let this job come after the one that makes it)" in said


# --- many --------------------------------------------------------------------------------------------------


def test_a_chain_of_very_many_jobs_is_read_without_recursion() -> None:
    count = 3_000
    after = [*(f"j{n + 1}" for n in range(count - 1)), ""]
    text = "".join(f'+Name = "j{n}"\n+After = "{words}"\nqueue\n' for n, words in enumerate(after))
    jobs = read(f"executable = x\n{text}", only=["j0"])
    assert len(jobs) == count
    assert waits(jobs[-2:]) == {f"j{count - 2}": [f"j{count - 1}"], f"j{count - 1}": []}


def test_very_many_after_very_many_by_one_glob_are_few_edges() -> None:
    text = 'executable = x\n+Name = "a.$(Process)"\nqueue 5000\n+Name = "b.$(Process)"\n+After = "a.*"\nqueue 5000\n'
    jobs = read(text)
    barriers = {job.terms.after for job in jobs[5000:]}
    assert len(barriers) == 1
    assert [len(inner.jobs) for barrier in barriers if barrier for inner in barrier.barriers] == [5000]


def test_very_many_inputs_that_others_make_cost_no_more_each() -> None:
    def cost(count: int) -> float:
        make = f'executable = x\n+Name = "a.$(Process)"\noutput = made.$(Process)\nqueue {count}\n'
        items = ", ".join(map(str, range(count)))
        use = f'executable = x\n+After = "b"\ninput = made.$(Item)\nqueue in ({items})\n'
        with Instructions() as instructions:
            assert len(read(make, named("b", "a"), use)) == 2 * count + 1
        return instructions.count / count

    assert cost(240) < 1.5 * cost(60)
