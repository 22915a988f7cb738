"""Lines that are too long for the wire, and their ends in files."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relay.mail.lines import LINE_LENGTH_LIMIT, LineBreaker, end_lines_in_lf

CASES = Path(__file__).parent / "vectors" / "cases" / "headers.json"


def break_lines(content: bytes, size: int = 0) -> bytes:
    breaker = LineBreaker()
    chunks = [content[i : i + size] for i in range(0, len(content), size)] if size else [content]
    return b"".join(map(breaker.feed, chunks))


def test_content_with_short_lines_is_passed_on_as_it_is() -> None:
    content = (b"x" * LINE_LENGTH_LIMIT + b"\r\n") * 3 + b"\r\nend"
    assert LineBreaker().feed(content) is content


def test_long_line_is_broken_by_a_space() -> None:
    broken = break_lines(b"a\r\n" + b"x" * 2500 + b"\r\nb\r\n")
    assert [len(line) for line in broken.split(b"\r\n")] == [1, 998, 998, 506, 1, 0]
    assert broken.count(b"\r\n x") == 2


def test_recorded_headers_044() -> None:
    [case] = (case for case in json.loads(CASES.read_text()) if case["id"] == "headers-044")
    content = next(s["send"] for s in case["input"]["sessions"][0]["steps"] if "X-Long" in s.get("send", ""))
    [header] = (line for line in content.split("\r\n") if line.startswith("X-Long"))
    [expected] = (value for name, value in case["expected"]["relayed"][0]["headers"] if name == "X-Long")
    broken = break_lines(f"{header}\r\n".encode()).decode()
    assert broken == f"X-Long: {expected}\n".replace("\n", "\r\n")


LINES = st.one_of(st.integers(0, 20), st.integers(990, 1010), st.integers(1980, 2010)).map(lambda n: b"x" * n)


@given(st.lists(LINES, max_size=6), st.sampled_from([1, 2, 997, 998, 999, 1000]))
def test_whole_and_in_chunks_are_the_same(lines: list[bytes], size: int) -> None:
    content = b"\r\n".join(lines)
    broken = break_lines(content)
    assert break_lines(content, size) == broken
    assert max(map(len, broken.split(b"\r\n"))) <= LINE_LENGTH_LIMIT
    assert broken.replace(b"\r\n ", b"") == content


@given(st.lists(st.sampled_from([b"", b"a", b"\r\n", b"\r", b"\n", b"\xff"])), st.integers(1, 5))
def test_lines_end_in_lf_however_they_are_cut(pieces: list[bytes], size: int) -> None:
    content = b"".join(pieces)
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    assert b"".join(end_lines_in_lf(chunks)) == content.replace(b"\r\n", b"\n")
