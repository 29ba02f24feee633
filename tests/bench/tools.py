"""The tools that are compared, and how each is told to do the same.

Rules:

- A tool that is not there is left out, by its version: None. What a tool cannot do, it has no command for.
- All get the same nodes, the same ssh_config and 64 connections at once, and print the jobs' output and nothing else
  where they have a way to. Time limits of theirs are off. None is given anything that it does not document.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
AT_ONCE = "64"


@dataclass(frozen=True)
class Place:
    """Nodes, and how to reach them."""

    directory: Path  # for the files that tools are given
    nodes: Sequence[str]  # as ssh_config names them
    hosts: Sequence[str]  # their addresses
    ssh_config: Path
    known_hosts: Path
    key: Path
    user: str
    port: int

    @property
    def listed(self) -> Path:
        """A file with a node a line."""
        return self._file("nodes", "".join(f"{node}\n" for node in self.nodes))

    @property
    def site(self) -> Path:
        """The same for scripts, as JSON."""
        told = {"hosts": self.hosts, "port": self.port, "user": self.user}
        return self._file("site.json", json.dumps(told | {"key": str(self.key), "known_hosts": str(self.known_hosts)}))

    @property
    def ssh(self) -> Path:
        """A client with the configuration, in one word: GNU parallel's -M starts no master of several words."""
        client = self._file("ssh", f'#!/bin/sh\nexec ssh -F {shlex.quote(str(self.ssh_config))} "$@"\n')
        client.chmod(0o755)
        return client

    def _file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Call:
    """A command line, and what it needs around it."""

    command: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: Path | None = None
    terminal: bool = False


@dataclass(frozen=True)
class Tool:
    """One of those that are compared."""

    name: str
    version: Callable[[], str | None]
    jobs: Callable[[Place, Path], Call] | None = None
    """Run the lines of a file, one at a time on each node."""
    everywhere: Callable[[Place, str], Call] | None = None
    """Run a command once on every node."""


def first_line(*command: str | Path, pattern: str = r"\d[\w.]*") -> str | None:
    """The version in what the command prints first, or None where there is no such command."""
    if shutil.which(command[0]) is None:
        return None
    environment = dict(os.environ)
    if command[0] != sys.executable:  # the first clstr would meet another package of its name there
        environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
    )
    found = re.search(pattern, result.stdout + result.stderr)
    return found[0] if found else None


# --- clstr, and bare asyncssh -------------------------------------------------------------------------------

CLSTR = (sys.executable, "-m", "clstr")


def _clstr_jobs(place: Place, jobs: Path) -> Call:
    return Call([*CLSTR, "-F", place.ssh_config, "-N", place.listed, "-J", jobs])


def _clstr_everywhere(place: Place, command: str) -> Call:
    return Call([*CLSTR, "-F", place.ssh_config, "-N", place.listed, "-E", command])


def _asyncssh() -> str | None:
    return first_line(sys.executable, "-c", "import asyncssh; print(asyncssh.__version__)")


def _floor_jobs(place: Place, jobs: Path) -> Call:
    return Call([sys.executable, HERE / "floor.py", "jobs", place.site, jobs])


def _floor_everywhere(place: Place, command: str) -> Call:
    return Call([sys.executable, HERE / "floor.py", "everywhere", place.site, command])


# --- clients of ssh -----------------------------------------------------------------------------------------


def _processes(place: Place, command: str) -> Call:
    """One ``ssh`` a node, all at once: for a few nodes."""
    line = "for node in $(cat $1); do ssh -n -F $2 $node $3 & done; wait"
    return Call(["sh", "-c", line, "sh", place.listed, place.ssh_config, command])


def _parallel(*flags: str) -> Callable[[Place, Path], Call]:
    def jobs(place: Place, jobs: Path) -> Call:
        nodes = ",".join(f"1/{node}" for node in place.nodes)
        return Call(["parallel", "--will-cite", *flags, "-S", nodes], _parallel_env(place), stdin=jobs)

    return jobs


def _parallel_everywhere(place: Place, command: str) -> Call:
    line = ["parallel", "--will-cite", "--nonall", "--line-buffer", "-j", AT_ONCE, "--slf", place.listed, command]
    return Call(line, _parallel_env(place))


def _parallel_env(place: Place) -> dict[str, str]:
    return {"PARALLEL_SSH": str(place.ssh), "HOME": str(place.directory)}


def _pdsh(place: Place, command: str) -> Call:
    line = ["pdsh", "-R", "ssh", "-N", "-f", AT_ONCE, "-w", f"^{place.listed}", command]
    return Call(line, {"PDSH_SSH_ARGS_APPEND": f"-F {place.ssh_config}"})


def _clush(place: Place, command: str) -> Call:
    return Call(
        ["clush", "-q", "-N", "-n", "-f", AT_ONCE, "-t", "0", "-u", "0", "-o", f"-F {place.ssh_config}",
         "--hostfile", place.listed, command]
    )  # fmt: skip


def _pssh(place: Place, command: str) -> Call:
    line = [_pssh_name() or "", "-P", "-p", AT_ONCE, "-t", "0", "-h", place.listed, "-x", f"-F {place.ssh_config}"]
    return Call([*line, command])


def _pssh_name() -> str | None:
    return next((name for name in ("parallel-ssh", "pssh") if shutil.which(name)), None)  # Debian's name first


def _pssh_version() -> str | None:
    name = _pssh_name()
    return None if name is None else first_line(name, "--version")


def _ansible(program: str) -> Callable[[Place, str], Call]:
    def everywhere(place: Place, command: str) -> Call:
        line = [program, "all", "-i", place.listed, "-m", "raw", "-f", AT_ONCE, "-a", command]
        settings = {"ANSIBLE_SSH_ARGS": f"-F {place.ssh_config}", "HOME": str(place.directory)}
        return Call(line, settings | {"ANSIBLE_HOME": str(place.directory / "ansible"), "LC_ALL": "C.UTF-8"})

    return everywhere


def _library(python: str) -> Callable[[Place, str], Call]:
    def everywhere(place: Place, command: str) -> Call:
        return Call([python, HERE / "by_library.py", place.site, command])

    return everywhere


# --- the first clstr ----------------------------------------------------------------------------------------


def first_call(program: str, place: Place, *words: str | Path) -> Call:
    """It knows no ssh_config but the user's and pings by name, so it finds an ssh and a ping of ours first."""
    programs = place.directory / "bin"
    programs.mkdir(exist_ok=True)
    for name, line in (("ssh", f'exec {shutil.which("ssh")} -F {place.ssh_config} "$@"'), ("ping", "exit 0")):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # PYTHONPATH would put another package of its name before it.
    return Call([program, *words], {"PATH": path, "PYTHONPATH": ""}, terminal=True)


def every_tool(first: str | None, ansible: str, library: str) -> list[Tool]:
    """All of them, clstr first; ``library`` is a Python that has parallel-ssh, ``first`` the first clstr's program."""
    tools = [
        Tool("clstr", lambda: first_line(*CLSTR, "--version"), _clstr_jobs, _clstr_everywhere),
        Tool("bare asyncssh", _asyncssh, _floor_jobs, _floor_everywhere),
        Tool("ssh", lambda: first_line("ssh", "-V", pattern=r"OpenSSH_[\w.]+"), None, _processes),
        Tool("parallel -M", lambda: first_line("parallel", "--version"), _parallel("-M")),
        Tool("parallel", lambda: first_line("parallel", "--version"), _parallel(), _parallel_everywhere),
        Tool("pdsh", lambda: first_line("pdsh", "-V"), None, _pdsh),
        Tool("clush", lambda: first_line("clush", "--version"), None, _clush),
        Tool("pssh", _pssh_version, None, _pssh),
        Tool("ansible", lambda: first_line(ansible, "--version", pattern=r"\d+\.[\w.]*"), None, _ansible(ansible)),
        Tool(
            "parallel-ssh library",
            lambda: first_line(library, "-c", "from importlib.metadata import version as v; print(v('parallel-ssh'))"),
            None,
            _library(library),
        ),
    ]
    if first is not None:
        tools.append(
            Tool(
                "first clstr",
                lambda: first_line(first, "--version"),
                lambda place, jobs: first_call(first, place, "-N", place.listed, "-J", jobs),
                lambda place, command: first_call(first, place, "-N", place.listed, "-E", command),
            )
        )
    return tools
