"""The leash's wrapper under every login shell that is installed, run as sshd runs it: ``$SHELL -c WRAPPER``.

The shells' own ``-c JOB`` says what is right. Nothing here needs a server.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from clstr.transport import MAX_COMMAND, Command, Input
from clstr.transport.leash import GUARD, MARKER, WRAPPER, Marker, arm, bare, guard_in, terminate

POSIX = ("sh", "dash", "bash", "zsh", "ksh", "mksh", "busybox sh")
CSH = ("tcsh", "csh")
SHELLS = (*POSIX, *CSH, "fish")

DEADLINE = 60.0
"""Seconds that a fact may take before a test gives it up."""


def needs(shell: str) -> list[str]:
    command = shell.split()
    if shell == "csh" and "tcsh" not in os.path.realpath(shutil.which("csh") or "tcsh"):
        pytest.skip("the csh of this machine is not a tcsh")
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    return command


def until(fact: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.01)


class Member(NamedTuple):
    pid: int
    command: str


def group(leader: int, session: bool = False) -> list[Member]:
    """The living processes of a process group, or of a session."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, *numbers = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(numbers[session]) == leader and state not in "ZX":
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                members.append(Member(int(path.name), command))
    return members


class Session:
    """A login shell with the wrapper as its command, as sshd starts it: without a terminal, as a group's leader.

    Its input is a socket, by which bash too takes it for sshd's and reads ~/.bashrc.
    """

    def __init__(self, shell: str, environment: dict[str, str], text: bytes = WRAPPER) -> None:
        ours, theirs = socket.socketpair()
        self.leash: socket.socket | None = ours
        self.process = subprocess.Popen(
            [*needs(shell), "-c", text],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
            cwd=environment["HOME"],
        )
        theirs.close()
        self.pid = self.process.pid

    def say(self, data: bytes) -> Session:
        assert self.leash is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.leash.sendall(data)
        return self

    def let_go(self) -> Session:
        if self.leash is not None:
            self.leash.close()
            self.leash = None
        return self

    def read(self, word: bytes) -> bytes:
        """Standard output up to the word."""
        assert self.process.stdout is not None
        heard = b""
        while not heard.endswith(word):
            assert select.select([self.process.stdout], [], [], DEADLINE)[0], (
                f"never said {word!r}: {heard!r}"
            )
            piece = os.read(self.process.stdout.fileno(), 1)
            assert piece, f"ended before {word!r}: {heard!r}"
            heard += piece
        return heard

    def result(self) -> Result:
        out, err = self.process.communicate(timeout=DEADLINE)
        return Result(self.process.returncode, out, err)

    def end(self) -> None:
        self.let_go()
        for member in group(self.pid, session=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        self.process.communicate()


class Result(NamedTuple):
    status: int
    out: bytes
    err: bytes


class Home:
    """A home directory whose start-up files a test may write, and the sessions in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sessions: list[Session] = []
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(path), "LC_ALL": "C.UTF-8"}

    def session(self, shell: str, text: bytes = WRAPPER, **more: str) -> Session:
        session = Session(shell, self.environment | more, text)
        self.sessions.append(session)
        return session

    def job(self, shell: str, line: bytes, directory: bytes | None = None, **more: str) -> Session:
        """A session whose job has begun."""
        session = self.session(shell, **more).say(arm(Command(line, (("CLSTR_NODE", "n1"),), directory)))
        session.read(MARKER)
        return session

    def plain(self, shell: str, line: bytes, **more: str) -> Result:
        """What ``ssh HOST JOB`` makes of the job."""
        return self.session(shell, line, **more).let_go().result()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    for session in home.sessions:
        session.end()


# --- the job is the login shell's, as with plain ssh -------------------------------------------------------

ANYWHERE = [
    b"echo hi",
    b"echo 'a  b' \"c  d\" e\\ \\ f",
    b"echo it\\'s 'it'\\''s' '\"' \"'\"",
    b"echo a\\\\b 'a\\b' \"a\\b\" \\$HOME '$HOME'",
    b"echo hi!",
    b"echo a ! b",
    b"echo '!' \\! x=!",
    b"echo 'hi!x'",
    b"echo $HOME",
    b'echo "$HOME"',
    b"echo /etc/host* /et? /et[c]",
    b"echo {a,b}c",
    b"echo ~",
    b"echo nothing{}",
    b"echo a\necho b",
    b"\n\necho a\n\n\necho b\n\n",
    b"echo a\xe9b \xc3\xa9 \xff\xfe",
    b"echo '\xe9'\necho \xc3\necho '\xf0'",
    b"echo 'clstr1' 0 - .",
    b"   echo leading\techo tab ",
    b"echo hi # and a comment",
    b"echo hi;",
    b"exit 7",
    b"exit 0",
    b"false",
    b"true",
    b"/bin/sh -c 'exit 200'",
    b"false; echo on",
    b"true && echo yes; false || echo no",
    b"exec true",
    b"exec false",
    b"exec sh -c 'echo $0; exit 3'",
    b"cat",
    b"cat; echo end",
    b"echo a | cat | cat; exit 2",
    b"wc -c </dev/null",
    b"head -c 900000 /dev/zero",
    b"printf 'no newline'",
    b"printf 'a\\0b\\377'",
    b"sh -c 'echo err >&2; echo out'",
    b"cd /; pwd",
    b"cd / && pwd || echo no",
    b"cd /nonexistent",
    b"cd /nonexistent && echo there",
    b"umask",
    b"echo `echo x`",
    b"env | grep -c clstr_",
    b"sh -c 'sleep 0.1 & wait'; echo waited",
    b"echo " + b"x" * 900 + b" | wc -c",
]
POSIX_ONLY = [
    b"kill -9 $$",
    b"kill -TERM $$; echo on",
    b"kill -SEGV $$",
    b"(exit 3)",
    b"set -e; false; echo no",
    b"set -e\nfalse\necho no",
    b"set -f; echo *",
    b'echo $? $# "[$*]" "[$!]"',
    b"cat <<E\n$HOME\n\n  y\nE\necho z",
    b"cat <<'E'\n$HOME 'x\n.\nE",
    b"sleep 0.1 & echo x",
    b"sleep 0.1 & wait; echo waited",
    b"sleep 0.1 & sleep 0.1 & wait; echo waited for both",
    b"jobs",
    b"f() {\n\n echo in f $1\n}\nf x",
    b"trap 'echo bye' EXIT; echo x",
    b"trap 'echo bye' EXIT; exit 4",
    b"trap '' HUP TERM; echo t",
    b"exec 0<&- 1>&2; echo e",
    b"exec 3>&1; echo to three >&3",
    b"echo 'a\\\nb\\'",
    b"echo a \\\nb",
    b'echo "a\nb"',
    b"echo $(echo y) ${HOME##*/} $((1+2))",
    b'[ -z "$(echo)" ] && echo z',
    b"IFS=x; set -- axb; echo $1",
    b"if true; then echo y; fi",
    b"for i in 1 2; do echo $i; done",
    b"while true; do break; done; echo x",
    b"x=1\nexport x\nenv | grep ^x=",
    b'read x; echo "[$x]" $?',
    b"eval exit 5",
    b"set | grep -c ^clstr_",
    b"ls /proc/self/fd | wc -l",
    b"echo foo\\",
    b"# nothing but a comment",
    b"return 3",
]
# A shell's messages name `eval`, its line or its command where plain ones do not: only that there are some counts.
COMPLAINTS = [b"nosuchcommand_x", b"cd /nonexistent; echo $?", b"echo 'unterminated", b'echo "', b")", b"if"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_is_to_its_login_shell_what_plain_ssh_makes_of_it(shell: str, home: Home) -> None:
    jobs = ANYWHERE + POSIX_ONLY * (shell in POSIX)
    wrong = []
    for line in jobs:
        plain, ours = home.plain(shell, line), home.job(shell, line).result()
        if ours != plain and (ours[:2] != plain[:2] or (bool(ours.err) != bool(plain.err))):
            wrong.append((line, plain, ours))
    assert wrong == []


@pytest.mark.parametrize("shell", POSIX)
def test_a_job_that_is_nonsense_fails_as_it_does_with_plain_ssh(shell: str, home: Home) -> None:
    for line in COMPLAINTS:
        plain, ours = home.plain(shell, line), home.job(shell, line).result()
        assert (ours.status, ours.out) == (plain.status, plain.out), line
        assert ours.err, line


@pytest.mark.parametrize("shell", [*CSH, "fish"])
def test_a_job_that_is_nonsense_fails_in_other_shells_too(shell: str, home: Home) -> None:
    for line in (b"nosuchcommand_x", b"echo 'unterminated", b'echo "'):
        ours = home.job(shell, line).result()
        assert ours.status != 0, line
        assert ours.err, line


@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_tracing_shows_the_job_and_nothing_else(shell: str, home: Home) -> None:
    assert home.job(shell, b"set -x; echo q").result() == (0, b"q\n", b"+ echo q\n")


def test_traps_for_errors_and_commands_see_the_job_only(home: Home) -> None:
    for line in (b"trap 'echo ERR' ERR; false; true", b"trap 'echo D' DEBUG; true"):
        assert home.job("bash", line).result() == home.plain("bash", line)


def test_a_csh_whose_eval_garbles_pipes_says_so_and_runs_nothing(home: Home) -> None:
    result = home.session("bsd-csh").say(arm(Command(b"echo a | wc"))).result()
    assert result == (1, b"", b"this csh is not a tcsh and would garble the job (try --no-leash)\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_long_job_and_one_of_many_lines_arrive_whole(shell: str, home: Home) -> None:
    text = b"echo '" + b"x" * (MAX_COMMAND - 7) + b"'"
    assert home.job(shell, text).result() == (0, text[6:-1] + b"\n", b"")
    lines = b"echo a\n" * 500 + b"\n" * 500 + b"echo b\n\n"
    assert home.job(shell, lines).result() == (0, b"a\n" * 500 + b"b\n", b"")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("shell", POSIX)
def test_a_character_cut_off_by_the_end_of_its_line_does_not_swallow_the_next(
    shell: str, locale: str, home: Home
) -> None:
    result = home.job(shell, b"printf '%s' '\xe9\n\xc3\n' \xf0\n\n: \xe2\x82", LC_ALL=locale).result()
    assert result == (0, b"\xe9\n\xc3\n\xf0", b"")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_job_finds_its_settings_and_its_directory(shell: str, home: Home) -> None:
    (home.path / "a b*").mkdir()
    node = "root@[fe80::1]:22 $HOME `x` \"'! \\"
    settings: tuple[tuple[str, str | bytes], ...] = (
        ("CLSTR_NODE", node),
        ("CLSTR_SLOT", "2"),
        ("CLSTR_JOB", "30"),
        ("CLSTR_ATTEMPT", "1"),
        ("CLSTR_X", ""),
        ("CLSTR_Y", "-"),
        ("CLSTR_Z", "=a="),
        ("CLSTR_W", b" \xc3\xa9"),
    )
    for directory, place in (
        (None, home.path),
        (b"/usr", Path("/usr")),
        (b"a b*", home.path / "a b*"),
        (b"~/a b*", home.path / "a b*"),
        (b"~", home.path),
    ):
        command = Command(b"pwd; env | grep ^CLSTR_ | sort", settings, directory)
        result = home.session(shell).say(arm(command)).result()
        said = b"".join(b"%s=%s\n" % (name.encode(), os.fsencode(value)) for name, value in sorted(settings))
        assert result == (0, MARKER + f"{place}\n".encode() + said, b"")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_directory_that_cannot_be_entered_is_the_jobs_failure(shell: str, home: Home) -> None:
    for directory in (b"/nonexistent", b"-", b"~/none"):
        result = home.job(shell, b"echo no", directory).result()
        assert result[:2] == (1, b""), directory
        assert result.err, directory


@pytest.mark.parametrize("shell", POSIX)
def test_a_relative_directory_is_not_looked_up_elsewhere(shell: str, home: Home) -> None:
    (home.path / "etc").mkdir()
    result = home.job(shell, b"pwd", b"etc", CDPATH="/").result()
    assert result == (0, f"{home.path}/etc\n".encode(), b"")


STARTUP = {
    "zsh": (".zshenv", "echo started\nhey() { echo hey $1; }\n", b"hey you"),
    "bash": (".bashrc", "echo started\nhey() { echo hey $1; }\n", b"hey you"),
    "tcsh": (".tcshrc", "echo started\nalias hey 'echo hey \\!*'\n", b"hey you"),
    "fish": (".config/fish/config.fish", "echo started\nfunction hey; echo hey $argv; end\n", b"hey you"),
}


@pytest.mark.parametrize("shell", STARTUP)
def test_start_up_files_run_once_and_what_they_define_reaches_the_job(shell: str, home: Home) -> None:
    name, text, line = STARTUP[shell]
    path = home.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    session = home.session(shell).say(arm(Command(line)))
    assert session.result() == (0, b"started\n" + MARKER + b"hey you\n", b"")


# --- the leash ----------------------------------------------------------------------------------------------

ENDLESS = b"sh -c 'sleep 1000; :' | cat; sleep 1000"
DEAF = b"sh -c 'trap \"\" HUP INT TERM; echo deaf; sleep 1000; sleep 1000'"


@pytest.mark.parametrize("shell", SHELLS)
def test_letting_go_ends_the_whole_process_group(shell: str, home: Home) -> None:
    session = home.job(shell, ENDLESS)
    until(
        lambda: sum("sleep 1000" in member.command for member in group(session.pid)) >= 2, "the job's sleep"
    )
    session.let_go()
    assert session.process.wait(DEADLINE) == -signal.SIGTERM
    until(lambda: group(session.pid) == [], "an empty process group")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_ignores_the_first_signal_is_killed(shell: str, home: Home) -> None:
    session = home.job(shell, DEAF)
    session.read(b"deaf\n")
    session.let_go()
    session.process.wait(DEADLINE)
    until(lambda: group(session.pid) == [], "an empty process group")


def test_a_job_whose_own_shell_ignores_the_first_signal_is_killed(home: Home) -> None:
    session = home.job("sh", b"trap '' HUP INT TERM; echo deaf; while :; do sleep 1; done")
    session.read(b"deaf\n")
    session.let_go()
    assert session.process.wait(DEADLINE) == -signal.SIGKILL
    until(lambda: group(session.pid) == [], "an empty process group")


def test_a_job_may_clean_up_before_it_is_killed(home: Home) -> None:
    session = home.job(
        "sh", b"trap 'sleep 1; echo clean; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    )
    session.read(b"ready\n")
    session.let_go()
    assert session.read(b"clean\n")
    assert session.process.wait(DEADLINE) == 3
    until(lambda: group(session.pid) == [], "an empty process group")


@pytest.mark.parametrize(
    "line",
    [
        b"trap '' HUP TERM USR1; kill -USR1 0; trap - HUP TERM",
        b"set -m",
        b"cd /",
        b"exec 0<&- 3<&- 4<&- 5<&-",
        b"IFS=0123456789",
        b"umask 777",
        b"set -e",
        b"ulimit -f 0",
        b"PATH=/nonexistent; sleep() { /bin/sleep 1000; }; unset HOME",
        b"read() { :; }; kill() { :; }; test() { :; }",
    ],
)
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_nothing_that_a_job_does_to_its_shell_loosens_the_leash(shell: str, line: bytes, home: Home) -> None:
    session = home.job(shell, line + b"\necho ready\nsleep 1000\n")
    session.read(b"ready\n")
    session.let_go()
    assert session.process.wait(DEADLINE) in (-signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_ended_by_itself_keeps_its_background_children(shell: str, home: Home) -> None:
    line = b"sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'; exit 3"
    session = home.job(shell, line)
    child = int(session.read(b"\n"))
    try:
        assert session.process.wait(DEADLINE) == 3
        session.let_go()
        until(lambda: [member.pid for member in group(session.pid)] == [child], "the watcher's end")
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_costs_two_processes_more_and_a_csh_three(shell: str, home: Home) -> None:
    session = home.job(shell, b"exec sleep 1000" if shell in POSIX else b"sleep 1000")
    until(lambda: any(member.command.startswith("sleep") for member in group(session.pid)), "the job")
    processes = len(group(session.pid))
    assert processes == {"fish": 3}.get(shell, 4 if shell in CSH else 2)


# --- the guard of a connection -------------------------------------------------------------------------------


class Guarded:
    """A connection with a guard: sessions with one SSH_CONNECTION, whose jobs are told of it."""

    def __init__(self, home: Home, shell: str = "sh", port: int = 50_000) -> None:
        self.home = home
        self.connection = f"192.0.2.1 {port} 192.0.2.2 22"
        self.guard = self.session(shell, GUARD.encode())
        self.number = guard_in(self.guard.read(b"\n"))
        assert self.number

    def session(self, shell: str, text: bytes = WRAPPER) -> Session:
        return self.home.session(shell, text, SSH_CONNECTION=self.connection)

    def job(self, shell: str, line: bytes) -> Session:
        """A session whose job has begun under the guard."""
        session = self.session(shell).say(arm(Command(line), self.number))
        assert session.read(b"\n") == MARKER[:-1] + b" %d\n" % session.pid
        return session


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_runs_the_guard_and_its_start_up_file(shell: str, home: Home) -> None:
    guarded = Guarded(home, shell)
    assert int(guarded.number) == guarded.guard.pid
    guarded.guard.let_go()
    assert guarded.guard.result() == (0, b"", b"")  # it has no job to end


@pytest.mark.parametrize("shell", POSIX)
def test_a_guarded_job_is_like_any_other_and_costs_no_process(shell: str, home: Home) -> None:
    guarded = Guarded(home)
    line = b"echo a; echo b >&2; cat; echo $((1 + 1)); set | grep clstr_; exit 3"
    session = guarded.session(shell).say(arm(Command(line, (("A", "1"),), b"~"), guarded.number))
    status, out, err = session.result()
    assert (status, err) == (3, b"b\n")
    assert out.splitlines()[:3] == [MARKER[:-1] + b" %d" % session.pid, b"a", b"2"]
    assert not any(re.match(rb"clstr_", line) for line in out.splitlines()[3:])
    session = guarded.job(shell, b"/bin/sleep 1000; :")
    until(lambda: any(member.command.startswith("/bin/sleep") for member in group(session.pid)), "the job")
    assert len(group(session.pid)) == 2


@pytest.mark.parametrize("shell", [*CSH, "fish"])
def test_what_is_no_posix_shell_has_a_watcher_all_the_same(shell: str, home: Home) -> None:
    guarded = Guarded(home)
    session = guarded.session(shell).say(arm(Command(b"pwd; sleep 1000", (), b"~"), guarded.number))
    assert session.read(b"\n" + os.fsencode(home.path) + b"\n").startswith(MARKER)
    session.let_go()
    session.process.wait(DEADLINE)
    until(lambda: group(session.pid) == [], "an empty process group")


@pytest.mark.parametrize(
    "line", [b"exec sleep 1000", b". ./other", b"eval 'ex''ec sleep 1000'", b"echo up; exec env -i sleep 1000"]
)
def test_a_job_that_may_replace_its_shell_has_a_watcher(line: bytes, home: Home) -> None:
    (home.path / "other").write_text("exec sleep 1000\n")
    guarded = Guarded(home)
    session = guarded.session("sh").say(arm(Command(line), guarded.number))
    session.read(MARKER)
    until(lambda: any("sleep" in member.command for member in group(session.pid)), "the job")
    session.let_go()
    session.process.wait(DEADLINE)
    until(lambda: group(session.pid) == [], "an empty process group")


def test_a_job_whose_guard_is_dead_has_a_watcher(home: Home) -> None:
    guarded = Guarded(home)
    guarded.guard.process.kill()
    guarded.guard.process.wait()
    session = guarded.session("sh").say(arm(Command(b"sleep 1000; :"), guarded.number))
    session.read(MARKER)
    session.let_go()
    assert session.process.wait(DEADLINE) == -signal.SIGTERM


@pytest.mark.parametrize("shell", POSIX)
def test_a_guard_terminates_whom_it_is_told_to_and_no_other(shell: str, home: Home) -> None:
    guarded = Guarded(home)
    one, other = (guarded.job(shell, b"sleep 1000 & sleep 1000 & wait; :") for _ in range(2))
    guarded.guard.say(terminate(b"%d" % one.pid))
    assert one.process.wait(DEADLINE) == -signal.SIGTERM
    until(lambda: group(one.pid) == [], "an empty process group")
    assert other.process.poll() is None


@pytest.mark.parametrize("shell", POSIX)
def test_the_end_of_the_guards_input_terminates_all_jobs_of_its_connection(shell: str, home: Home) -> None:
    guarded, others = Guarded(home), Guarded(home, port=50_001)
    stranger = others.job(shell, b"sleep 1000; :")
    polite = guarded.job(shell, b"echo $$; sleep 1000; :")
    deaf = guarded.job(shell, DEAF)
    deaf.read(b"deaf\n")
    guarded.guard.let_go()
    assert polite.process.wait(DEADLINE) == -signal.SIGTERM
    deaf.process.wait(DEADLINE)
    until(lambda: group(polite.pid) == [] == group(deaf.pid), "empty process groups")
    guarded.guard.process.wait(DEADLINE)
    assert stranger.process.poll() is None


def test_a_job_that_is_being_terminated_hears_nothing_more_at_the_end_of_the_guards_input(home: Home) -> None:
    guarded = Guarded(home)
    cleans_up = b"trap 'echo TERM' TERM; echo ready; until test -e up; do sleep 0.01; done; echo clean"
    job = guarded.job("sh", cleans_up)
    job.read(b"ready\n")
    guarded.guard.say(terminate(b"%d" % job.pid))
    job.read(b"TERM\n")
    other = guarded.job("sh", b"sleep 1000; :")
    guarded.guard.let_go()
    assert other.process.wait(DEADLINE) == -signal.SIGTERM
    (home.path / "up").touch()
    assert job.result()[:2] == (0, b"clean\n")


def test_the_guard_leaves_alone_what_jobs_that_ended_by_themselves_have_left(home: Home) -> None:
    guarded = Guarded(home)
    started = b"sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'; setsid sh -c 'echo $$; sleep 1000 >/dev/null; :' 2>&1 &"
    session = guarded.job("sh", started + b" sleep 0.2; exit 3")
    children = [int(session.read(b"\n")) for _ in range(2)]
    try:
        assert session.process.wait(DEADLINE) == 3
        guarded.guard.let_go()
        guarded.guard.process.wait(DEADLINE)
        for child in children:
            os.kill(child, 0)
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.killpg(children[1], signal.SIGKILL)


def test_a_job_may_signal_its_group_and_the_guard_lives(home: Home) -> None:
    guarded = Guarded(home)
    session = guarded.job("sh", b"kill -TERM 0; :")
    assert session.process.wait(DEADLINE) == -signal.SIGTERM
    assert guarded.guard.process.poll() is None


def test_a_start_up_file_that_changes_ifs_does_not_hide_the_guard(home: Home) -> None:
    guarded = Guarded(home)
    (home.path / ".bashrc").write_text("IFS=0123456789-\n")
    guarded.job("bash", b"sleep 1000; :")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # All connections that come over no TCP have this one name (packet.c: ssh_remote_ipaddr).
        {"SSH_CONNECTION": "UNKNOWN 65535 UNKNOWN 65535"},
        # Its jobs have watchers, whatever they are told.
        {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "SHELL": "/bin/tcsh"},
        {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "SHELL": "/usr/bin/fish"},
        # A forced command may run the wrapper from its own shell, whose command line has none of it.
        {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "SSH_ORIGINAL_COMMAND": GUARD},
    ],
    ids=["no name", "everybody's name", "csh", "fish", "a forced command"],
)
def test_where_it_could_not_know_its_jobs_or_has_none_there_is_no_guard(
    environment: dict[str, str], home: Home
) -> None:
    session = home.session("sh", GUARD.encode(), **environment)
    session.let_go()
    assert session.result() == (1, b"", b"")


def test_where_sessions_do_not_begin_with_what_they_were_asked_for_there_is_no_guard(home: Home) -> None:
    around = b"/bin/sh -c '" + GUARD.encode().replace(b"'", rb"'\''") + b"'; exit $?"
    session = home.session("sh", around, SSH_CONNECTION="192.0.2.1 50000 192.0.2.2 22")
    session.let_go()
    assert session.result() == (1, b"", b"")


def test_the_guard_leaves_alone_the_jobs_of_a_clstr_that_one_of_its_jobs_has_left(home: Home) -> None:
    """A job of the node ``:`` is a first process too, in the same environment, but nobody's whose parent is sshd."""
    guarded = Guarded(home)
    (home.path / "wrapper").write_bytes(WRAPPER)
    (home.path / "job").write_bytes(arm(Command(b"echo $$; sleep 1000; :")))
    (home.path / "clstr").write_text('echo $$; { cat job; sleep 1000; } | setsid sh -c "$(cat wrapper)"')
    session = guarded.job("sh", b"setsid sh clstr & until test -e up; do sleep 0.01; done")
    clstr = int(session.read(b"\n"))
    session.read(MARKER)
    leader = int(session.read(b"\n"))
    (home.path / "up").touch()
    assert session.process.wait(DEADLINE) == 0
    other = guarded.job("sh", b"sleep 1000; :")
    try:
        guarded.guard.let_go()
        assert other.process.wait(DEADLINE) == -signal.SIGTERM
        guarded.guard.process.wait(DEADLINE)
        os.kill(leader, 0)
    finally:
        for pid in (clstr, leader):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


# --- the job's own standard input ----------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Callable[[bytes], Input]]:
    with contextlib.ExitStack() as opened:

        def write(data: bytes) -> Input:
            (tmp_path / "input").write_bytes(data)
            return opened.enter_context(contextlib.closing(Input(str(tmp_path / "input"))))

        yield write


BINARY = b"\r\n\n.\nclstr1\n\xff\xfe\0 \x80\x1a\x04" + bytes(range(256)) * 1200 + b"no newline"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("data", [b"", b"\n", BINARY], ids=["empty", "newline", "binary"])
def test_a_job_reads_its_input_and_its_end_and_no_file_is_left(
    data: bytes, shell: str, home: Home, inputs: Callable[[bytes], Input]
) -> None:
    place = home.path / "t m'p"
    place.mkdir()
    line = b'ls "$TMPDIR"; head -c 3 >&2; cat; pwd' if shell not in CSH else b'ls "$TMPDIR"; cat; pwd'
    command = Command(line, (("A", "1"),), b"~", inputs(data))
    session = home.session(shell, TMPDIR=str(place)).say(arm(command) + data)
    out, err = (data, b"") if shell in CSH else (data[3:], data[:3])
    assert session.result() == (0, MARKER + out + f"{home.path}\n".encode(), err)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_an_input_that_ends_early_runs_nothing_and_leaves_nothing(
    shell: str, home: Home, inputs: Callable[[bytes], Input]
) -> None:
    place = home.path / "tmp"
    place.mkdir()
    said = arm(Command(b"echo ran", input=inputs(BINARY)))
    session = home.session(shell, TMPDIR=str(place)).say(said + BINARY[:-1])
    until(lambda: any(path.stat().st_size > 4096 for path in place.iterdir()), "some of it has arrived")
    result = session.let_go().result()
    assert (result.status != 0, result.out) == (True, b"")
    assert list(place.iterdir()) == []
    until(lambda: group(session.pid) == [], "an empty process group")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_node_that_cannot_hold_the_input_fails_the_job_and_says_why(
    shell: str, home: Home, inputs: Callable[[bytes], Input]
) -> None:
    place, programs = home.path / "tmp", home.path / "bin"
    place.mkdir()
    programs.mkdir()
    (programs / "head").write_text("#!/bin/sh\necho head: no space left >&2\nexit 1\n")
    (programs / "head").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    said = arm(Command(b"echo ran\necho ran", (("A", "1"),), input=inputs(b"data")))
    session = home.session(shell, PATH=path, TMPDIR=str(place)).say(said + b"data")
    why = b"head: no space left\nclstr: the input of the job cannot be kept on this node\n"
    assert session.result() == (1, MARKER, why)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_leash_holds_a_job_with_input_too(shell: str, home: Home, inputs: Callable[[bytes], Input]) -> None:
    job = b"cat; exec sh -c 'echo up; exec sleep 1000'"  # mksh loses a TERM that comes between two commands
    session = home.session(shell).say(arm(Command(job, input=inputs(b"data\n"))) + b"data\n")
    session.read(MARKER)
    session.read(b"data\nup\n")
    session.let_go()
    assert session.process.wait(DEADLINE) == -signal.SIGTERM
    until(lambda: group(session.pid) == [], "an empty process group")


def test_without_a_usable_tmpdir_the_input_is_kept_in_tmp(home: Home, inputs: Callable[[bytes], Input]) -> None:
    said = arm(Command(b"cat", input=inputs(b"data")))
    assert home.session("sh", TMPDIR="/nonexistent").say(said + b"data").result() == (0, MARKER + b"data", b"")


# --- what runs nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_no_job_no_run(shell: str, home: Home) -> None:
    whole = arm(Command(b"echo ran", (("CLSTR_NODE", "n1"),), b"/"))
    lines = whole.splitlines(keepends=True)
    for said in [b"".join(lines[:n]) for n in range(len(lines))] + [whole[:-2], whole[:-5]]:
        result = home.session(shell).say(said).let_go().result()
        assert result.out == b"", said


@pytest.mark.parametrize("shell", SHELLS)
def test_a_start_up_file_that_reads_the_input_runs_nothing(shell: str, home: Home) -> None:
    whole = arm(Command(b"echo ran\necho ran", (("CLSTR_NODE", "n1"),), b"/"))
    lines = whole.splitlines(keepends=True)
    for first in range(1, len(lines)):
        session = home.session(shell).say(b"".join(lines[first:]))
        result = session.result()  # at once: it does not wait for more
        assert result.out == b"", first


@pytest.mark.parametrize("shell", POSIX)
def test_a_site_that_limits_every_read_ends_no_job(shell: str, home: Home) -> None:
    session = home.job(shell, b"sleep 1000", TMOUT="1")
    timer = subprocess.Popen(["sleep", "1.5"])  # longer than that limit
    timer.wait()
    assert session.process.poll() is None
    session.let_go()
    assert session.process.wait(DEADLINE) == -signal.SIGTERM


def test_a_site_that_limits_every_read_for_good_ends_no_spare_of_bash(home: Home) -> None:
    (home.path / ".bashrc").write_text("readonly TMOUT=1\n")
    spare = home.session("bash")
    timer = subprocess.Popen(["sleep", "1.5"])
    timer.wait()
    assert spare.say(arm(Command(b"echo $TMOUT"))).result() == (0, MARKER + b"1\n", b"")


CLIENT = """
import subprocess, sys
from clstr.transport.leash import WRAPPER, arm
from clstr.transport import Command
session = subprocess.Popen(["/bin/sh", "-c", WRAPPER], stdin=subprocess.PIPE, start_new_session=True)
session.stdin.write(arm(Command(b"sleep 1000; :")))
session.stdin.flush()
print(session.pid, flush=True)
session.wait()
"""


def test_a_client_that_is_killed_takes_its_job_with_it() -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert client.stdout is not None
    leader = int(client.stdout.readline())
    until(lambda: any("sleep" in member.command for member in group(leader)), "the job")
    client.kill()
    client.communicate()
    until(lambda: group(leader) == [], "an empty process group")


# --- words ---------------------------------------------------------------------------------------------------


def test_the_wrapper_does_not_contain_the_word_it_says() -> None:
    assert MARKER.strip() not in WRAPPER


def test_what_travels_is_lines_that_are_never_empty() -> None:
    assert arm(Command(b"\na\n\nb\n", (("A", "1"), ("B", "x y")), b"d")) == (
        b"clstr1\n2\nA=1\nB=x y\n-\n./d\n4\n1\na\n2\n-\n1\nb\n2\n-\n.\n"
    )


def test_how_many_bytes_of_input_come_behind_it_stands_at_its_end(inputs: Callable[[bytes], Input]) -> None:
    assert arm(Command(b"a", input=inputs(b"12345"))).endswith(b"\n0\na\n5\n")
    assert arm(Command(b"a", input=inputs(b""))).endswith(b"\n0\na\n.\n")


@pytest.mark.parametrize(
    "command",
    [
        Command(b"a\0b"),
        Command(b"x", (("A", "1\n2"),)),
        Command(b"x", (("", "a"),)),
        Command(b"x", (), b"a\nb"),
        Command(b"x", (), b"a\0b"),
    ],
)
def test_what_cannot_travel_is_refused(command: Command) -> None:
    with pytest.raises(ValueError, match=r"empty|NUL"):
        arm(command)


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_leash_the_command_is_bare_but_for_its_directory(shell: str, home: Home) -> None:
    assert bare(Command(b"\xe9 'x", (("A", "1"),))) == b"\xe9 'x"
    name = "a 'b\\ \"$x* \u00e9#"
    (home.path / name).mkdir()
    for directory in (name, f"~/{name}"):
        result = home.plain(shell, bare(Command(b"ls -d ../a*", (), directory.encode())))
        assert result == (0, f"../{name}\n".encode(), b"")
    result = home.plain(shell, bare(Command(b"echo no; echo no", (), b"/nonexistent")))
    assert result[:2] == (1, b"")


STREAMS = [b"", b"x", b"clstr-begun", b"two\nlines of start-up\n", MARKER[:-1], b"c", MARKER[:5] + MARKER[:7]]


@pytest.mark.parametrize("before", STREAMS)
@pytest.mark.parametrize("after", [b"", b"out", MARKER])
@pytest.mark.parametrize("leader", [b"", b"4194304"])
def test_the_marker_is_found_however_the_stream_is_cut(before: bytes, after: bytes, leader: bytes) -> None:
    stream = before + MARKER[:-1] + (b" " + leader if leader else b"") + b"\n" + after
    for size in range(1, len(stream) + 1):
        marker, heard, rest, begun = Marker(), b"", b"", False
        for start in range(0, len(stream), size):
            piece = stream[start : start + size]
            if begun:
                rest += piece
            else:
                said, begun, rest = marker.feed(piece)
                heard += said
        assert (heard, begun, rest, marker.leader) == (before, True, after, leader), size


def test_all_but_a_possible_beginning_of_the_marker_is_passed_on() -> None:
    marker = Marker()
    assert marker.feed(b"hello clst") == (b"hello ", False, b"")
    assert marker.feed(b"er\n") == (b"clster\n", False, b"")


def test_the_login_shells_parts_keep_out_of_each_others_quotes() -> None:
    first, _, rest = WRAPPER.partition(b"\n")
    assert re.fullmatch(rb"true '\\''[^']*'", first)
    assert re.fullmatch(rb"[^']*#'\n", rest)
