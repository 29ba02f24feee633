"""The line splitter, by exact values: every text whole, a byte at a time, and cut at every place."""

from __future__ import annotations

import pytest

from clstr.output.lines import LONGEST, Lines

TEXTS = [b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\na\n\nb\n", b"\r\n\x00\xff\n", b"one\ntwo\nthree"]


def pieces(chunks: list[bytes]) -> list[bytes]:
    lines = Lines()
    out = [lines.feed(chunk) for chunk in chunks if chunk]
    return [piece for piece in [*out, lines.rest()] if piece]


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_come_out_as_they_went_in(text: bytes) -> None:
    cuts = [[text], [bytes([byte]) for byte in text]]
    cuts += [[text[:at], text[at:]] for at in range(len(text))]
    for chunks in cuts:
        out = pieces(chunks)
        assert b"".join(out) == text
        assert all(piece.endswith(b"\n") for piece in out[:-1])


def test_a_chunk_of_whole_lines_is_passed_on_as_it_is() -> None:
    chunk = b"a\nb\nc\n"
    assert Lines().feed(chunk) is chunk


def test_a_part_of_a_line_waits_for_its_end() -> None:
    lines = Lines()
    assert lines.feed(b"al") == b""
    assert lines.feed(b"pha\nbe") == b"alpha\n"
    assert lines.feed(b"ta\n") == b"beta\n"
    assert lines.rest() == b""


def test_a_line_is_kept_back_up_to_a_mebibyte_and_no_further() -> None:
    lines = Lines()
    assert lines.feed(b"x" * LONGEST) == b""
    assert lines.feed(b"y") == b"x" * LONGEST + b"y"
    assert lines.feed(b"z\n") == b"z\n"


def test_a_line_of_900_kb_comes_out_in_one_piece() -> None:
    chunks = [b"x" * 30_000] * 30 + [b"\n"]
    assert pieces(chunks) == [b"x" * 900_000 + b"\n"]
