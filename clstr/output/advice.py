"""What would help: the cures that the last lines of a run name, each once, however many nodes and jobs need it.

Nodes that cannot be reached for one reason are told of together: ``alike`` is that reason without what one node alone
has. What a cure needs to know of a node is remembered, and no more.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from clstr.model import Connected, Ended, Exited, Fact, News, Node, NotStarted, UnknownKey, Unreachable

_NAMED_HOSTS = 100  # of one ssh-keyscan: enough for a rack, and a line that can still be pasted

_CURES = (
    ("connection refused", "is sshd running there, and on that port?"),
    ("host name cannot be resolved", "are the names right, of hosts and not of files, and is this their ssh_config?"),
    ("no answer within", "are they up, and is there a way to them, by VPN or ProxyJump?"),
    ("no route to host", "are they up, and is there a way to them, by VPN or ProxyJump?"),
    ("network is unreachable", "has this machine a network?"),
    ("permission denied", "logging in must work without a password"),
)
"""What to look at first, by how the reason begins."""

NOT_FOUND = (
    'exit 127 means "command not found": jobs run in the login directory, with the PATH of a non-interactive shell '
    "(write the command's path out, or set PATH in the job)"
)


def by_ssh(node: Node) -> str:
    """The command that tries the node as ssh would."""
    port = f"-p {node.port} " if node.port is not None else ""
    user = f"{node.user}@" if node.user is not None else ""
    return f"ssh {port}{user}{node.host}"


class Advice:
    """Hears of a run, and knows at its end what would help.

    ``by_hand`` gives the command that tries a node; ``client`` is the name of ``--ssh``'s program.
    """

    def __init__(self, by_hand: Callable[[Node], str] = by_ssh, client: str | None = None) -> None:
        self._by_hand = by_hand
        self._client = client
        self._alike: dict[Node, tuple[str, str]] = {}  # the whole reason, and the shared one
        self._unknown_keys: dict[UnknownKey, None] = {}
        self._statuses: dict[int, Node] = {}  # of jobs that failed, and where first
        self._connected = False

    def saw(self, event: Fact | News) -> None:
        """Remember what has a cure."""
        match event:
            case Connected() if self._client is None:  # of a client, only a job's beginning shows that it connects
                self._connected = True
            case Ended(attempt, outcome):
                self._connected = self._connected or not isinstance(outcome, NotStarted)
                if isinstance(outcome, Exited) and outcome.status in (127, 255):
                    self._statuses.setdefault(outcome.status, attempt.slot.node)
            case Unreachable(node, why):
                self._connected = self._connected or why.startswith("setup ")
                self._alike[node] = (why, event.alike or _without_name(why, node))
                if event.unknown_key is not None:
                    self._unknown_keys[event.unknown_key] = None
            case _:
                pass

    def alike(self, node: Node, why: str) -> str:
        """The reason, in the words that other nodes share with this one."""
        whole, shared = self._alike.get(node, ("", ""))
        return shared if whole == why else why

    def lines(self, evicted: Mapping[Node, str]) -> list[str]:
        """What would help, where these nodes are evicted."""
        lines = []
        if len(self._unknown_keys) > 1:
            lines.append(self._scan())
        elif evicted and not self._connected and all(node in self._alike for node in evicted):
            lines.append(self._unreachable(evicted))
        if 127 in self._statuses:
            lines.append(NOT_FOUND)
        if 255 in self._statuses and self._client is not None:
            lines.append(
                f"exit 255 may be {self._client}'s own and not the job's: ssh ends so when its connection breaks or "
                f"the job dies by a signal; try one by hand: {self._by_hand(self._statuses[255])}"
            )
        return lines

    def _unreachable(self, evicted: Mapping[Node, str]) -> str:
        reasons = {self.alike(node, why) for node, why in evicted.items()}
        who = f"none of the {len(evicted)} nodes" if len(evicted) > 1 else "no node"
        cures = [cure for begin, cure in _CURES if len(reasons) == 1 and next(iter(reasons)).startswith(begin)]
        cure = f" ({cures[0]})" if cures else ""
        return (
            f"{who} could be reached{cure}; try one by hand, with the same options: "
            f"{self._by_hand(next(iter(evicted)))}"
        )

    def _scan(self) -> str:
        by_port: dict[int, list[str]] = {}
        for key in [*self._unknown_keys][:_NAMED_HOSTS]:
            by_port.setdefault(key.port, []).append(shlex.quote(key.host))
        scans = [
            " ".join(["ssh-keyscan", *([] if port == 22 else ["-p", str(port)]), *hosts])
            for port, hosts in sorted(by_port.items())
        ]
        rest = len(self._unknown_keys) - _NAMED_HOSTS
        more = f"; and {rest} more" if rest > 0 else ""
        return (
            f"{len(self._unknown_keys)} host keys are on no record: compare what this prints with the hosts' own, then "
            f"append it to {next(iter(self._unknown_keys)).known_hosts}, or give --host-key accept-new: "
            f"{'; '.join(scans)}{more}"
        )


def _without_name(why: str, node: Node) -> str:
    """The reason without the host's name: a client of the user's own may put it into every message."""
    return re.sub(rf"(?<![\w.-]){re.escape(node.host)}(?![\w-])", "HOST", why) if node.host != ":" else why
