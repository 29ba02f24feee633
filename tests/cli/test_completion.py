"""Completion in the real shells: what bash, zsh and fish offer behind a line, asked of each by its own means.

bash and zsh are typed at, on a terminal: a key inserts all that they offer, and Enter gives it to a ``clstr`` that
writes its words down. fish tells without a terminal.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from end_to_end.clstr_process import CLSTR, environment

from clstr.cli.flags import parser

PROMPT = "what now? "

RECORD = """
clstr() {{ printf '%s\\0' "$@" > words.new; mv words.new words; }}
PS1='{prompt}'
"""

START = {
    "bash": """
source <(cat clstr.bash)
bind 'set completion-query-items 0' 'set enable-bracketed-paste off'
bind '"\\C-g": insert-completions'
""",
    "zsh": """
fpath=($PWD/functions $fpath)
autoload -U compinit && compinit -D -u
if [[ -e clstr.zsh ]]; then source clstr.zsh; fi
unsetopt zle_bracketed_paste 2>/dev/null; unset zle_bracketed_paste
all-matches() { _main_complete _complete; compstate[insert]=all compstate[list]= }
zle -C all-matches complete-word all-matches
bindkey '^G' all-matches
""",
}


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, needs: Callable[[str], None]) -> str:
    """Each of the shells."""
    needs(request.param)
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with hosts that are known, and files of all kinds."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(
        "zkalpha ssh-ed25519 AAAA\n"
        "zkbeta,10.1.1.7 ssh-ed25519 AAAA\n"
        "[zkgamma.example]:2222 ssh-ed25519 AAAA\n"
        "|1|zkc2FsdA==|zkaGFzaA== ssh-ed25519 AAAA\n"
        "# zkcomment\n"
        "zk$(touch${IFS}harm) ssh-ed25519 AAAA\n"
    )
    (tmp_path / ".ssh" / "config").write_text(
        "Host zkdelta zk*.example !zkno\n  HostName 10.1.1.8\nhost zkepsilon\nHost *\n  User zkuser\n"
    )
    (tmp_path / "zknodes.txt").touch()
    (tmp_path / "zkdir").mkdir()
    return tmp_path


def typed(shell: str, home: Path, lines: list[str]) -> Iterator[list[str]]:
    """The words of each command after all that the shell offers was put into its line."""
    rc = home / f".{shell}rc"
    rc.write_text(RECORD.format(prompt=PROMPT) + START[shell])
    command = {"bash": ["bash", "--noprofile", "--rcfile", str(rc), "-i"], "zsh": ["zsh", "-d", "-i"]}[shell]
    master, slave = pty.openpty()
    settings = environment(home) | {"ZDOTDIR": str(home), "COLUMNS": "200", "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=home, env=settings, start_new_session=True
    )
    os.close(slave)
    words = home / "words"
    try:
        _read_until(master, lambda text: PROMPT in text)
        for line in lines:
            os.write(master, f"{line}\x07\r".encode())
            _read_until(master, lambda text: words.exists())
            yield words.read_text().split("\0")[:-1]
            words.unlink()
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _read_until(master: int, condition: Callable[[str], bool]) -> None:
    text, end = "", time.monotonic() + 60
    while not condition(text):
        assert time.monotonic() < end, text
        if select.select([master], [], [], 0.05)[0]:
            text += os.read(master, 65536).decode(errors="replace")


def told(home: Path, lines: list[str]) -> Iterator[list[str]]:
    """What fish says that it offers for each line."""
    asks = [f"complete --do-complete {shlex.quote(line)}; echo ." for line in lines]
    command = ["fish", "--no-config", "-c", "; ".join(["source clstr.fish", *asks])]
    fish = subprocess.run(command, capture_output=True, check=True, text=True, cwd=home, env=environment(home))
    assert fish.stderr == ""
    *answers, rest = re.split(r"^\.\n", fish.stdout, flags=re.M)
    assert rest == ""
    for answer in answers:
        yield [found.partition("\t")[0] for found in answer.splitlines()]


PLACES = {"bash": "clstr.bash", "zsh": "functions/_clstr", "fish": "clstr.fish"}


def offered(shell: str, home: Path, lines: list[str], place: str | None = None) -> list[set[str]]:
    """What the shell, with its script in that place, offers for the last word of each line."""
    script = subprocess.run([*CLSTR, "--completion", shell], capture_output=True, check=True, env=environment(home))
    (home / "functions").mkdir()
    (home / (place or PLACES[shell])).write_bytes(script.stdout)
    answers = told(home, lines) if shell == "fish" else typed(shell, home, lines)
    offers = []
    for line, words in zip(lines, answers, strict=True):
        *before, last = f"{line}|".split()
        given = words if shell == "fish" else words[len(before) - 1 :]
        offers.append({word.rstrip("/=") for word in given} - {last.removesuffix("|")})
    return offers


HOSTS = {"zkalpha", "zkbeta", "zkgamma.example", "zkdelta", "zkepsilon"}

LINES = {
    "flags": ("clstr --nod", {"--node", "--node-file", "--node-failures"}),
    "flags behind a value": ("clstr -m 3 --sub", {"--submit"}),
    "flags behind values of another": ("clstr -n zkalpha zkbeta --sub", {"--submit"}),
    "flags behind one that needs no value": ("clstr -o --sub", {"--submit"}),
    "choices": ("clstr --host-key ", {"strict", "accept-new", "off"}),
    "choices behind others": ("clstr -s -n zkalpha --color ", {"auto", "always", "never"}),
    "the shells themselves": ("clstr --completion ", {"bash", "zsh", "fish"}),
    "a choice behind =": ("clstr --dry-run=co", {"--dry-run=condor"}),
    "hosts": ("clstr -n zk", HOSTS),
    "a second host": ("clstr -n zkalpha zk", HOSTS),
    "a third host to leave out": ("clstr -v --exclude zkalpha zkbeta zk", HOSTS),
    "a host behind its user": ("clstr -n me@zkal", {"me@zkalpha"}),
    "a host behind its user and =": ("clstr --node=me@zkal", {"--node=me@zkalpha"}),
    "files": ("clstr -N zk", {"zknodes.txt", "zkdir"}),
    "a second file": ("clstr --job-file zknodes.txt zk", {"zknodes.txt", "zkdir"}),
    "a file that may be left out": ("clstr -n zkalpha --stdout zk", {"zknodes.txt", "zkdir"}),
    "directories": ("clstr --run-dir zk", {"zkdir"}),
    "nothing for a job": ("clstr --job zk", set()),
    "nothing for a number": ("clstr --retries zk", set()),
}


def test_a_shell_offers_what_may_stand_there(home: Path, shell: str) -> None:
    lines, expected = zip(*LINES.values(), strict=True)
    answers = offered(shell, home, list(lines))
    assert dict(zip(LINES, answers, strict=True)) == dict(zip(LINES, expected, strict=True))
    assert not (home / "harm").exists()


def test_a_shell_knows_every_flag(home: Path, shell: str) -> None:
    flags = {flag for action in parser()._actions for flag in action.option_strings if flag.startswith("--")}
    assert offered(shell, home, ["clstr --"]) == [flags]


def test_zsh_may_read_the_script_from_its_start_up_file_too(home: Path, needs: Callable[[str], None]) -> None:
    needs("zsh")
    assert offered("zsh", home, ["clstr --nod"], "clstr.zsh") == [{"--node", "--node-file", "--node-failures"}]
