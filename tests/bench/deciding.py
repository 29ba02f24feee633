"""The scheduler alone: every order is answered at once, first come first served, and one attempt in a hundred fails.

    deciding.py JOBS SLOTS

Prints the CPU microseconds a job, and how many facts, orders and news there were a job.
"""

from __future__ import annotations

import sys
import time
from collections import deque

from clstr.cli.run import WANTED_AHEAD
from clstr.model import Attempt, Dial, Event, Exited, Finished, Job, Node, Slot, Start, Want
from clstr.scheduler import Limits, Need, Scheduler

DONE, FAILED = Exited(0), Exited(1)
EVERY = 100
BATCH = 256


def main(jobs: int, slots: int) -> None:
    """Run so many jobs on so many nodes of one slot."""
    # A node is evicted for ten failures in a row, so none is; a job that failed is tried again elsewhere.
    scheduler = Scheduler(Limits(node_failures=10, stream=Need(None, True), read_ahead=WANTED_AHEAD))
    orders: deque[Event] = deque()
    running: deque[Attempt] = deque()
    told = given = attempts = 0
    begun = time.process_time()
    orders.extend(scheduler.nodes([Slot(Node(f"n{k}", f"n{k}"), 1) for k in range(slots)]))
    while scheduler.finished is None:
        if not orders:
            attempt = running.popleft()
            attempts += 1
            told += 1
            orders.extend(scheduler.ended(attempt, DONE if attempts % EVERY else FAILED))
            continue
        event = orders.popleft()
        told += 1
        match event:
            case Want(count):
                batch = [Job(given + n, b"true", budget=3) for n in range(1, min(count, BATCH, jobs - given) + 1)]
                given += len(batch)
                told += 1
                orders.extend(scheduler.jobs(batch) if batch else scheduler.exhausted())
            case Dial(node):
                told += 1
                orders.extend(scheduler.connected(node, 1))
            case Start(attempt):
                told += 1
                running.append(attempt)
                orders.extend(scheduler.started(attempt))
            case _:
                pass
    seconds = time.process_time() - begun
    tally = scheduler.tally()
    assert tally.done == jobs, tally
    assert any(isinstance(event, Finished) for event in orders)
    print(f"{1e6 * seconds / jobs:.2f} {(told + len(orders)) / jobs:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
