"""The result of a response does not depend on how many reads it arrived in and how many were parsed together."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.token_stream import TokenStream
from loadgen.exchange import Exchange

USAGE = {"prompt_tokens": 3, "total_tokens": 9}
CHUNKS = st.one_of(
    st.builds(
        lambda text, tokens: {
            "choices": [{"index": 0, "delta": {"content": text}}],
            "usage": USAGE | {"completion_tokens": tokens},
        },
        st.sampled_from(["", "a", "½ \u2028"]),
        st.integers(0, 9),
    ),
    st.builds(lambda text: {"choices": [{"index": 0, "delta": {"reasoning": text}}]}, st.text(max_size=2)),
    st.sampled_from([{"error": {"message": "dead", "code": 500}}, {"choices": []}, "no chunk"]),
)


def read(groups: list[list[tuple[int, bytes]]]) -> tuple[Exchange, bool, bool]:
    """Parse the reads of a response in groups; return the Exchange, whether [DONE] was read, and whether there was an event."""
    stream = TokenStream(Exchange(0))
    for group in groups:
        stream.feed(group)
    stream.finish(99)
    return stream.exchange, stream.done, stream.events > 0


@given(
    st.lists(CHUNKS, max_size=8),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=10),
    st.booleans(),
    st.lists(st.integers(1, 9), max_size=5),
)
def test_reads_parsed_together_are_reads_parsed_one_by_one(
    chunks: list[object], done: bool, cuts: list[int], whole: bool, ends: list[int]
) -> None:
    """The timestamp of an event is that of the read that completed it. With `whole`, every read ends at the end of an event."""
    events = [b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n" for chunk in chunks]
    events += [b"data: [DONE]\n\n"] * done
    body = b"".join(events)
    edges = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
    pieces = events if whole else [body[a:b] for a, b in pairwise(edges)]
    reads = list(enumerate(pieces))
    bounds = sorted({0, *(end for end in ends if end < len(reads)), len(reads)})
    assert read([reads[a:b] for a, b in pairwise(bounds)]) == read([[one] for one in reads])
