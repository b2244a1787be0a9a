"""The events are the same however the bytes are split."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.sse import SSEDecoder


def decode(*pieces: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


CASES = {
    "one": (b"data: a\n\n", [b"a"]),
    "two": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "no space after the colon": (b"data:a\n\n", [b"a"]),
    "only the first space goes": (b"data:  a\n\n", [b" a"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "mixed line ends": (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
    "lines of one event are joined": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "comment": (b": ping\n\ndata: a\n\n", [b"a"]),
    "comment inside": (b"data: a\n: ping\n\n", [b"a"]),
    "other fields": (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    "a field that only begins alike": (b"database: a\n\n", []),
    "event without data": (b"event: x\n\ndata: a\n\n", [b"a"]),
    "empty data": (b"data:\n\ndata\n\ndata: a\n\n", [b"a"]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "U+2028, U+2029, U+0085 and form feed end no line": (
        'data: {"a":"x\u2028y\u2029z\u0085\x0c"}\n\n'.encode(),
        ['{"a":"x\u2028y\u2029z\u0085\x0c"}'.encode()],
    ),
    "UTF-8": ("data: Größe 🙂\n\n".encode(), ["Größe 🙂".encode()]),
    "the last event lacks its blank line": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "the last line lacks its end": (b"data: a\n\ndata: b", [b"a", b"b"]),
    "nothing": (b"", []),
    "blank lines": (b"\n\n\n", []),
}


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES)
def test_events(stream: bytes, events: list[bytes]) -> None:
    assert decode(stream) == events


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES)
def test_byte_by_byte(stream: bytes, events: list[bytes]) -> None:
    """The stream is split at every byte, also inside a CRLF, a UTF-8 character and a byte order mark."""
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == events


LINES = st.lists(
    st.one_of(
        st.just(b""),
        st.sampled_from([b"data: a", b"data:", b"data: \xe2\x80\xa8", b": c", b"event: e", b"\xef\xbb\xbfdata: b"]),
        st.binary(max_size=8).map(lambda raw: b"data: " + raw),
    ),
    max_size=12,
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=4), st.lists(st.integers(0, 200), max_size=12))
def test_any_split_gives_the_same_events(parts: list[tuple[list[bytes], bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for lines, end in parts for line in lines)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert decode(*pieces) == decode(stream)


def test_a_line_of_10_mb_in_small_pieces_takes_linear_time() -> None:
    line = b"x" * 10_000_000
    stream = b"data: " + line + b"\n\n"
    start = time.process_time()
    assert decode(*(stream[i : i + 4096] for i in range(0, len(stream), 4096))) == [line]
    assert time.process_time() - start < 2  # joining the line at every piece would take about 25 s


PIECES = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"\n", b"\n\n", b"\n\ndata: ", b"\r", b"{}", b"x", b": c", b"\xef\xbb\xbf", b""]
    )
)


@given(PIECES, st.lists(PIECES, max_size=4))
def test_the_fast_path_gives_the_same_events_as_feed(before: list[bytes], reads: list[list[bytes]]) -> None:
    """Events and timestamps are those of feeding each read separately, whatever came before, and so are later events."""
    fed, fast = SSEDecoder(), SSEDecoder()
    fed.feed(b"".join(before))
    fast.feed(b"".join(before))
    stamped = list(enumerate(b"".join(read) for read in reads))
    assert list(fast.feed_reads(stamped)) == [(at, event) for at, read in stamped for event in fed.feed(read)]
    rest = b"\ndata: rest\n\n"
    assert fast.feed(rest) == fed.feed(rest)


def test_the_fast_path_handles_what_servers_usually_send() -> None:
    reads = [(1, b"data: {1}\n\ndata: {2}\n\n"), (2, b"data: {3}\n\n")]
    assert list(FastPathOnly().feed_reads(reads)) == [(1, b"{1}"), (1, b"{2}"), (2, b"{3}")]


class FastPathOnly(SSEDecoder):
    """Fails where the fast path is not taken."""

    def feed(self, chunk: bytes) -> list[bytes]:  # noqa: D102
        raise AssertionError(chunk)
