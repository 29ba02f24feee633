#!/usr/bin/env python3
"""Draws what ``clstr --trace`` has written: a bar for each attempt, a row for each slot.

    timeline.py TRACE PICTURE.svg

Evictions and pardons are marks above the row of their node; the curve below is the queue. A trace of a run that still
goes on, or has crashed, is drawn as far as it goes. For more than a picture open the trace in ui.perfetto.dev.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, ROW, TOP, CURVE = 860, 90, 22, 30, 50
COLOURS = {"good": "#3a9a5b", "terrible": "#c8473c", "bad": "#d9892b", "black": "#333333", "grey": "#9a9a9a"}
MARKS = {"evicted": "#c8473c", "pardoned": "#3a9a5b", "paroled": "#d9892b"}

Event = dict[str, Any]


def read(path: Path) -> list[Event]:
    """The events of a trace, which may lack its end."""
    lines = path.read_text().splitlines()
    if lines and lines[-1] != "]":
        lines[-1] = "]"  # its last line may be a part of one
    events: list[Event] = json.loads("\n".join(lines))
    return events


def draw(events: list[Event]) -> str:
    """The picture, as SVG."""
    slices = [event for event in events if event["ph"] == "X"]
    marks = [event for event in events if event["ph"] == "i"]
    queue = [event for event in events if event["ph"] == "C" and event["name"] == "queue"]
    nodes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    slots = sorted({(nodes[event["pid"]], event["pid"], event["tid"]) for event in slices})
    rows = {(pid, tid): TOP + ROW * number for number, (_, pid, tid) in enumerate(slots)}
    begin = min(event["ts"] for event in slices)
    end = max(event["ts"] + event["dur"] for event in slices)
    bottom = TOP + ROW * len(rows) + 14

    def x(time: int) -> float:
        return LEFT + (WIDTH - LEFT - 20) * (min(max(time, begin), end) - begin) / max(1, end - begin)

    parts = [f'<rect width="{WIDTH}" height="{bottom + CURVE + 30}" fill="#ffffff"/>']
    for name, pid, tid in slots:
        y = rows[pid, tid]
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)} {tid}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y + 18.5}" y2="{y + 18.5}" stroke="#e4e4e4"/>')
    for event in slices:
        y, left = rows[event["pid"], event["tid"]], x(event["ts"])
        wide = max(1.0, x(event["ts"] + event["dur"]) - left - 1)
        parts.append(
            f'<rect x="{left:.1f}" y="{y + 2}" width="{wide:.1f}" height="14" fill="{COLOURS[event["cname"]]}">'
            f"<title>{escape(event['name'])}\n{escape(event['args']['command'])}</title></rect>"
        )
        if wide > 20:
            parts.append(f'<text x="{left + 4:.1f}" y="{y + 13}" fill="#ffffff">{event["args"]["job"]}</text>')
    for event in marks:
        y = min((place for (pid, _), place in rows.items() if pid == event["pid"]), default=None)
        word = event["name"].split(":")[0]
        if y is not None:
            middle = x(event["ts"])
            # The node works until it is evicted, and again once it is not: the words stand where it does not.
            at, side = (middle + 4, "start") if word == "evicted" else (middle - 4, "end")
            parts.append(
                f'<path d="M{middle:.1f} {y}v18" stroke="{MARKS[word]}" stroke-width="2"/><text x="{at:.1f}" '
                f'y="{y + 13}" text-anchor="{side}" fill="{MARKS[word]}">{escape(event["name"])}</text>'
            )
    most = max((event["args"]["jobs"] for event in queue), default=0) or 1
    points = [(x(event["ts"]), bottom + CURVE * (1 - event["args"]["jobs"] / most)) for event in queue]
    steps = "".join(f"H{left:.1f}V{y:.1f}" for left, y in points)
    parts.append(f'<path d="M{LEFT} {bottom + CURVE}{steps}H{WIDTH - 20}" fill="none" stroke="#4a6fa5"/>')
    parts.append(f'<text x="{LEFT - 8}" y="{bottom + CURVE}" text-anchor="end">queue (of {most})</text>')
    seconds = f"{(end - begin) / 1e6:.1f} s"
    parts.append(f'<text x="{WIDTH - 20}" y="{bottom + CURVE + 18}" text-anchor="end">{seconds}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + CURVE + 30}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11">', *parts, "</svg>", ""])


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    events = read(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(draw(events))
    for event in events:
        if event["ph"] == "i":
            print(event["name"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
