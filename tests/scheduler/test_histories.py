"""Thousands of random histories, each event held against the law; what occurred in them is counted.

A failing history is played again by its seed: ``World(seed).play()``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from world import World, digest

from clstr import model
from clstr.model import End
from clstr.scheduler import Scheduler

HISTORIES = 4_000
OFTEN_ENOUGH = 100

OUTCOMES = [
    "Exited(0)",
    "Exited(0, results)",
    "Lost(ours)",
    *(kind.__name__ for kind in get_args(model.Outcome) if kind is not model.CopyFailed),
    *(f"copied {how}" for how in ("Exited(0)", "CopyFailed")),
]
ORDERS = [kind.__name__ for kind in get_args(model.Order)]
NEWS = [kind.__name__ for kind in get_args(model.News)]
ENDS = [end.name for end in End if end is not End.STUCK]
FACTS = [
    *("submitted", "nodes", "jobs", "exhausted", "quiet", "connected", "unreachable"),
    *("ended", "copied", "lost", "drain", "stop"),
]
CORNERS = [
    "evicted beside a job",
    "pardoned on parole",
    "evicted again on parole",
    "cleared on parole",
    "paroled out of several",
    "max_failed",
    "no nodes for the stream",
    "waited for nodes",
    "done before",
    "barrier opened",
    "held afar",
    "passed one short of tokens",
    "passed by priority",
    "beside the stream",
    "lost under a copy",
    "closed behind a copy",
]
RARE_CORNERS = [
    "pardoned beside a job",
    "used up while evicted",
    "unreachable after a streak",
    "blocked at barriers",
    "copied on an evicted node",
    "copied Stopped",
    "a stop under copies",
    "no copy after a stop",
]


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        world = World(seed)
        try:
            world.play()
        except Exception as error:
            error.add_note(f"in the history of seed {seed}")
            raise
        seen += world.seen
    print(*(f"{count:7} {name}" for name, count in sorted(seen.items())), sep="\n")
    return seen


def test_no_random_history_breaks_the_law(seen: Counter[str]) -> None:
    assert seen["Finished"] == HISTORIES


@pytest.mark.parametrize("name", [*OUTCOMES, *ORDERS, *NEWS, *ENDS, *FACTS, *CORNERS])
def test_the_histories_meet_everything_often_enough(seen: Counter[str], name: str) -> None:
    assert seen[name] >= OFTEN_ENOUGH


@pytest.mark.parametrize("name", RARE_CORNERS)
def test_the_histories_meet_rare_corners_too(seen: Counter[str], name: str) -> None:
    assert seen[name] >= OFTEN_ENOUGH / 10


def test_no_history_is_stuck(seen: Counter[str]) -> None:
    assert seen[End.STUCK.name] == 0


def test_the_same_facts_give_the_same_events_again() -> None:
    for seed in range(200):
        world = World(seed)
        world.play()
        again = Scheduler(world.limits)
        events = [event for fact, arguments in world.recorder.facts for event in getattr(again, fact)(*arguments)]
        assert events == world.recorder.events, f"seed {seed}"


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_order_of_hashes_does_not_show(hash_seed: str) -> None:
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, "-c", "from world import digest; print(digest(range(300)))"],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == digest(range(300))
