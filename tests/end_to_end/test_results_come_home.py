"""Results, from a node with a port of its own: what expjobserver's copies by rsync lost, mixed up or misread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.sshd import Cluster
from end_to_end.clstr_process import Result

Run = Callable[..., Result]

SFTP = "Subsystem sftp internal-sftp"

MAKE = [
    """cd "$(mktemp -d)" """,
    """mkdir -p 'deep/er  $(x)'""",
    """echo {I} >'deep/er  $(x)/*?'""",
    """echo {I} >"it's [1-9]" """,
    """echo no >"it's 5" """,
    """echo "RESULTS: $PWD/deep" """,
    """echo "RESULTS: $PWD/it's [1-9]" """,
    "echo some RESULTS: more",
    "echo RESULTS:less",
]


def test_all_that_a_job_names_is_copied_whatever_it_is_called_and_to_its_own_place(
    clstr: Run, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    node = cluster(nodes=1, extra_config=SFTP)
    job = " && ".join(MAKE)
    result = clstr("-n", "n1 slots=2", "-j", job, "--matrix", "I=1,2", "--results", "copied", cluster=node)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.count(b"RESULTS: /") == 4
    places = sorted((tmp_path / "copied").iterdir())
    assert len(places) == 2
    copied = [
        {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}
        for place in places
    ]
    assert sorted(copied, key=str) == [{"deep/er  $(x)/*?": f"{i}\n", "it's [1-9]": f"{i}\n"} for i in (1, 2)]
