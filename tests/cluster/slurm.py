"""A Slurm of one machine, this one: munged, slurmctld and slurmd, on loopback, in a directory of their own.

It needs root, and Debian's ``slurm-wlm`` and ``munge``. Whatever keeps it from starting is NotHere: it cannot start in
every container.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.sshd import NotHere, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo")

COMES_UP = 30.0
"""Seconds in which the node must be idle."""

LONGEST = 60.0
"""Seconds after which an array is believed to hang."""

ANSWERS = 25.0
"""Seconds in which slurmctld must answer; its own programs give up after 10."""

CONFIGURATION = """\
ClusterName=clstr
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
ReturnToService=2
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} Features={features} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


class Slurm:
    """A running one. Raises NotHere."""

    def __init__(self, directory: Path, features: Sequence[str]) -> None:
        self._directory = directory
        self._programs = {name: _find(name) for name in PROGRAMS}
        if os.geteuid() != 0:
            raise NotHere("slurmd needs root")
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "SHELL": "/bin/sh"}
        self._environment["SLURM_CONF"] = str(directory / "slurm.conf")
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start(features)
        except BaseException:
            self.stop()
            raise

    def run(self, script: Path) -> dict[int, int]:
        """Submit the array and wait for its end; gives the exit status of each element."""
        submitted = self._call("sbatch", "--parsable", script.name, directory=script.parent)
        assert submitted.returncode == 0, submitted.stderr

        def elements() -> list[dict[str, str]]:
            shown = self._call("scontrol", "show", "job", submitted.stdout.strip(), "--oneliner").stdout
            return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in shown.splitlines()]

        def over() -> bool:
            states = {element.get("JobState") for element in elements()}
            return bool(states) and states <= {"COMPLETED", "FAILED", "TIMEOUT"}

        until(over, f"the array is over: {elements()}", LONGEST)
        return {int(element["ArrayTaskId"]): int(element["ExitCode"].partition(":")[0]) for element in elements()}

    def refuses(self, script: Path) -> str:
        """Submit what is not accepted; gives Slurm's words."""
        submitted = self._call("sbatch", script.name, directory=script.parent)
        assert submitted.returncode != 0
        return submitted.stderr

    def stop(self) -> None:
        """End the daemons. The jobs of an array that is not over end by themselves."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, features: Sequence[str]) -> None:
        directory, host = self._directory, socket.gethostname().partition(".")[0]
        controller, node = _free_ports()
        for name in ("state", "spool"):
            (directory / name).mkdir()
        key = directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        configuration = CONFIGURATION.format(
            host=host,
            directory=directory,
            controller=controller,
            node=node,
            processors=os.cpu_count(),
            features=",".join(features),
        )
        (directory / "slurm.conf").write_text(configuration)
        own = (f"--{name}-file={directory}/munge.{name}" for name in ("key", "pid", "seed"))
        self._daemon("munged", "--foreground", "--force", f"--socket={directory}/munge.socket", *own)
        self._comes_up("munged", (directory / "munge.socket").exists)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        self._comes_up("slurmd", lambda: self._call("sinfo", "--noheader", "--format=%t").stdout.strip() == "idle")

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self._directory / f"{name}.out").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    [self._programs[name], *arguments],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _comes_up(self, what: str, condition: Callable[[], bool]) -> None:
        def broken() -> bool:
            return any(daemon.poll() is not None for daemon in self._daemons)

        try:
            until(lambda: broken() or condition(), f"{what} is up", COMES_UP)
            assert not broken(), f"{what} has ended"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            words = " | ".join(path.read_text()[-200:] for path in sorted(self._directory.glob("*.out")))
            raise NotHere(f"no Slurm can be started here: {error}: {' '.join(words.split())}") from None

    def _call(self, name: str, *arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [self._programs[name], *arguments]
        return subprocess.run(
            command,
            cwd=directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWERS,
        )


def _find(name: str) -> str:
    path = shutil.which(name, path=f"/usr/sbin:/usr/local/sbin:/sbin:{os.environ.get('PATH', '')}")
    if path is None:
        raise NotHere(f"no {name} on this machine (install slurm-wlm and munge)")
    return path


def _free_ports() -> list[int]:
    """Two that nobody listens on, below those that clients are given."""
    ports = []
    while len(ports) < 2:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
