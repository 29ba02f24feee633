#!/usr/bin/env python3
"""Records a run in a terminal of its own, as a moving picture (SVG) or as text.

    practice_cluster.py --dead 1 --broken 1 -- record.py -o recording.svg -- clstr -F {config} -N {nodes} ...
    practice_cluster.py -- record.py --columns 20 --text -- clstr -s -F {config} -N {nodes} --job uptime

The command runs on a pseudo-terminal; a terminal emulator (pyte, of clstr's ``test`` extra) keeps the screen, and a
picture of it is taken whenever it has changed, at most twenty times a second. The SVG shows them one after the
other at the speed at which they came, without a script; the text has each of them, or with ``--last`` the last.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from html import escape
from itertools import groupby

import pyte

FRAME = 0.05  # seconds between two pictures, at least
END = 3.0  # seconds for which the last one stays
WIDTH, HEIGHT, MARGIN = 8.43, 19, 14  # of a character and a line, in pixels, and around them all
COLOURS = {
    "default": "#d7dae0", "red": "#ef6b73", "green": "#7fd88f", "brown": "#e5c07b", "yellow": "#e5c07b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2",
}  # fmt: skip

BOLD = " font-weight='bold'"

Cells = tuple[tuple[str, str, bool], ...]  # a row: runs of text, each with its colour, bold or not
Picture = tuple[Cells, ...]


def record(command: list[str], columns: int, rows: int) -> tuple[list[tuple[float, Picture]], int]:
    """The pictures, each with the second in which it came, and the command's exit status."""
    process, master = pty.fork()
    if not process:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execvp(command[0], command)
    screen = pyte.Screen(columns, rows)
    stream, started = pyte.ByteStream(screen), time.monotonic()
    pictures: list[tuple[float, Picture]] = []
    open_ = True
    while open_:
        until = time.monotonic() + FRAME
        while open_ and (left := until - time.monotonic()) > 0:
            if select.select([master], [], [], left)[0]:
                try:
                    stream.feed(os.read(master, 65536))
                except OSError:  # Linux's way to say that nobody has the other end any more
                    open_ = False
        picture = tuple(cells(screen, row) for row in range(rows))
        if not pictures or pictures[-1][1] != picture:
            pictures.append((time.monotonic() - started, picture))
    os.close(master)
    return pictures, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def cells(screen: pyte.Screen, row: int) -> Cells:
    line = [screen.buffer[row][column] for column in range(screen.columns)]
    looks = groupby(line, lambda char: (char.fg, char.bold))
    runs = [("".join(char.data for char in run), *look) for look, run in looks]
    while runs and not runs[-1][0].strip():
        runs.pop()
    return tuple(runs)


def plain(picture: Picture) -> str:
    rows = ["".join(text for text, _, _ in row).rstrip() for row in picture]
    return "\n".join(rows).rstrip("\n") + "\n"


def svg(pictures: list[tuple[float, Picture]], title: str, columns: int) -> str:
    """One animated picture; each state is a group that is shown in its time only."""
    rows = max(number for _, picture in pictures for number, row in enumerate(picture, 1) if row or number == 1)
    width, height = round(columns * WIDTH + 2 * MARGIN), (rows + 1) * HEIGHT + 2 * MARGIN
    total = pictures[-1][0] + END
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#21252b"/>',
        '<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14" '
        'xml:space="preserve">',
        f'<text x="{MARGIN}" y="{MARGIN + 13}" fill="#8b93a1">$ {escape(title)}</text>',
    ]
    for number, (start, picture) in enumerate(pictures):
        is_last = number + 1 == len(pictures)
        times, values = [0.0, start, total if is_last else pictures[number + 1][0]], ["none", "inline", "none"]
        if number == 0:
            del times[1], values[0]
        if is_last:
            times.pop()
            values.pop()
        parts += [
            f'<g display="{"inline" if is_last else "none"}"><animate attributeName="display" calcMode="discrete" '
            f'dur="{total:.2f}s" repeatCount="indefinite" values="{";".join(values)}" '
            f'keyTimes="{";".join(f"{moment / total:.4f}" for moment in times)}"/>',
            *(drawn(row, MARGIN + 13 + y * HEIGHT) for y, row in enumerate(picture, 1) if row),
            "</g>",
        ]
    return "\n".join([*parts, "</g>", "</svg>", ""])


def drawn(row: Cells, y: int) -> str:
    spans = "".join(
        f"<tspan fill='{COLOURS.get(colour, COLOURS['default'])}'{BOLD if bold else ''}>{escape(text)}</tspan>"
        for text, colour, bold in row
    )
    return f'<text x="{MARGIN}" y="{y}">{spans}</text>'


def main() -> int:
    parser = argparse.ArgumentParser(description="Record a run in a terminal, as SVG or as text.")
    parser.add_argument("--columns", type=int, default=80, metavar="N", help="of the terminal (default 80)")
    parser.add_argument("--rows", type=int, default=24, metavar="N", help="of the terminal (default 24)")
    parser.add_argument("--title", metavar="TEXT", help="the command line to show (default: the command's)")
    parser.add_argument("--text", action="store_true", help="print every picture as text instead")
    parser.add_argument("--last", action="store_true", help="with --text: the last picture only")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the picture to FILE")
    parser.add_argument("command", nargs="+", help="what to run")
    flags = parser.parse_args()
    pictures, status = record(flags.command, flags.columns, flags.rows)
    if flags.text:
        chosen = pictures[-1:] if flags.last else pictures
        sys.stdout.write(("-" * flags.columns + "\n").join(plain(picture) for _, picture in chosen))
    else:
        text = svg(pictures, flags.title or " ".join(flags.command), flags.columns)
        if flags.output:
            with open(flags.output, "w") as file:
                file.write(text)
        else:
            sys.stdout.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
