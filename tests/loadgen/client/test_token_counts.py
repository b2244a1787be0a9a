"""Which of the server's counts is used, for streams whose right reading is known, and what is said where counts contradict."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.token_stream import TokenStream
from loadgen.exchange import Exchange


def chunk(text: str | None = None, used: Any = None, **more: Any) -> dict[str, Any]:
    """Return a chunk with answer text; `used` is its usage, or only its number of completion tokens."""
    delta = more.pop("delta", {} if text is None else {"content": text})
    found: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}
    return found if used is None else found | {"usage": used if isinstance(used, dict) else usage(used)}


def usage(completion: Any, total: Any = None, prompt: Any = 10, **more: Any) -> dict[str, Any]:
    known = isinstance(completion, int) and isinstance(prompt, int)
    total = (prompt + completion if known else None) if total is None else total
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def final(completion: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": usage(completion, **more)}


def thinking(text: str, used: Any = None) -> dict[str, Any]:
    return chunk(None, used, delta={"reasoning_content": text})


STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def read(events: list[Any], end: Any = STOP) -> Exchange:
    """Read events that arrived one millisecond apart, then the end of the answer."""
    stream = TokenStream(Exchange(0))
    ended = [*events, end] if end else events
    for at, event in enumerate(ended):
        stream.feed([(at, b"data: " + json.dumps(event).encode() + b"\n\n")])
    stream.finish(len(ended))
    assert stream.token_count == sum(stream.exchange.tokens)
    return stream.exchange


ROLE = {"role": "assistant", "content": ""}
TEXTS = [chunk(text) for text in "abcd"]
REASONED = [*(thinking("hm") for _ in range(6)), chunk("4"), chunk("2")]
REASONING = {"completion_tokens_details": {"reasoning_tokens": 6}}


class Case(NamedTuple):
    """A stream and the right reading of its counts."""

    events: list[Any]
    source: str | None
    total: int | None
    tokens: list[int]
    says: str | None = None
    """What the contradiction says; None where there is none."""
    arrivals: list[int] | None = None


CASES: dict[str, Case] = {
    "cumulative": Case([chunk(t, n) for t, n in zip("abc", (1, 4, 5), strict=True)] + [final(5)], "continuous_usage", 5, [1, 3, 1]),
    "end token without a chunk": Case([chunk("a", 1), chunk("b", 2), final(3)], "continuous_usage", 3, [1, 1]),
    "each chunk counts itself": Case([chunk(t, 1) for t in "abcd"] + [final(4)], "chunk_usage", 4, [1] * 4),
    "each chunk counts itself, growing": Case(
        [chunk(t, n) for t, n in zip("abc", (1, 2, 3), strict=True)] + [final(6)], "chunk_usage", 6, [1, 2, 3]
    ),
    "each chunk counts itself, without a total": Case(
        [chunk(t, 1) for t in "abcd"], "chunk_usage", 4, [1] * 4, "(1, 1, 1, 1) fall or repeat, and no total confirms their sum of 4"
    ),
    "two chunks that count themselves": Case([chunk("a", 1), chunk("b", 1), final(2)], "chunk_usage", 2, [1, 1]),
    "each chunk counts itself, and an end token": Case([chunk(t, 1) for t in "abcd"] + [chunk("", 1), final(5)], "chunk_usage", 5, [1] * 4),
    "text that was held back": Case([chunk("a", 1), chunk("", 2), chunk("bc", 2)], "continuous_usage", 2, [1, 1]),
    "text of a token in two chunks": Case([chunk(t, n) for t, n in zip("abcd", (1, 1, 2, 3), strict=True)], "continuous_usage", 3, [1, 1, 1]),
    "one total in both chunks": Case([chunk("a", 5), chunk("b", 5)], "usage", 5, [1, 1]),
    "one total in each chunk": Case([chunk(t, 9) for t in "abcd"], "usage", 9, [1] * 4),
    "one total in each chunk and at the end": Case([chunk(t, 9) for t in "abcd"] + [final(9)], "usage", 9, [1] * 4),
    "counts that fall": Case(
        [chunk(t, n) for t, n in zip("abcd", (1, 3, 2, 3), strict=True)] + [final(4)], "usage", 4, [1] * 4, "(1, 3, 2, 3) do not lead to the total of 4"
    ),
    "a total above the last count": Case(
        [chunk("a", 1), chunk("b", 2), final(40)], "usage", 40, [1, 1], "(1, 2) do not lead to the total of 40"
    ),
    "a total below the last count": Case(
        [chunk(t, n) for t, n in zip("abcd", (2, 4, 6, 8), strict=True)] + [final(5)],
        "continuous_usage", 8, [2, 2, 2, 2], "(2, 4, 6, 8) do not lead to the total of 5",
    ),
    "a total with only the answer": Case(
        [*REASONED, final(2)], "chunks", 8, [1] * 8, "the server counts 2 tokens, but 8 chunks brought text"
    ),
    "reasoning outside the completion": Case([*REASONED, final(2, total=18, **REASONING)], "corrected_usage", 8, [1] * 8),
    "reasoning inside the completion": Case([*REASONED, final(8, **REASONING)], "usage", 8, [1] * 8),
    "hidden reasoning": Case([chunk("4"), chunk("2"), final(8, **REASONING)], "usage", 8, [7, 1]),
    "hidden reasoning outside the completion": Case(
        [chunk("4"), chunk("2"), final(2, total=18, **REASONING)], "corrected_usage", 8, [7, 1]
    ),
    "a total that nothing explains": Case(
        [chunk("4"), chunk("2"), final(2, total=18)], "corrected_usage", 8, [7, 1], "completion_tokens is 2, but total_tokens − prompt_tokens is 8"
    ),
    "a total below the sum": Case([*TEXTS, final(4, total=12)], "usage", 4, [1] * 4, "is 4, but total_tokens − prompt_tokens is only 2"),
    "more reasoning than completion": Case(
        [*TEXTS, final(4, completion_tokens_details={"reasoning_tokens": 9})], "usage", 4, [1] * 4, "is 4, but reasoning_tokens is 9"
    ),
    "a role chunk with a count": Case(
        [chunk(None, 1, delta=ROLE), *(chunk(t, n) for t, n in (("a", 2), ("b", 3))), final(3)], "continuous_usage", 3, [2, 1], None, [1, 2]
    ),
    "a total before the first text": Case([chunk("", 9), *TEXTS, final(4)], "usage", 4, [1] * 4, None, [1, 2, 3, 4]),
    "a count that announces the first text": Case([chunk("", 1), chunk("a", 1), chunk("b", 2), final(2)], "continuous_usage", 2, [1, 1], None, [1, 2]),
    "a token whose text is held back": Case([chunk("", 1), chunk("é", 2), final(2)], "continuous_usage", 2, [1, 1], None, [0, 1]),
    "zeros before the end": Case([chunk(t, 0) for t in "abcd"] + [final(4)], "usage", 4, [1] * 4),
    "zeros to the end": Case([*TEXTS, final(0)], "chunks", None, [1] * 4),
    "a negative count": Case([*TEXTS, final(-4)], "chunks", None, [1] * 4, "completion_tokens -4 is not a number of tokens"),
    "a truth value": Case([*TEXTS, final(True, total=14)], "corrected_usage", 4, [1] * 4, "completion_tokens True is not"),
    "a count of 400 digits": Case([*TEXTS, final(int("9" * 400), total=14)], "corrected_usage", 4, [1] * 4, "completion_tokens infinite is not"),
    "a fraction": Case([*TEXTS, final(4.5)], "chunks", None, [1] * 4, "completion_tokens 4.5 is not"),
    "text as a count": Case([*TEXTS, final("4", total="14", prompt="10")], "usage", 4, [1] * 4),
    "floats as counts": Case([chunk(t, {"completion_tokens": float(n)}) for t, n in (("a", 1), ("b", 3))], "continuous_usage", 3, [1, 2]),
    "usage in two parts": Case(
        [{"choices": [], "usage": {"prompt_tokens": 10}}, *TEXTS, {"choices": [], "usage": {"completion_tokens": 4}}], "usage", 4, [1] * 4
    ),
    "usage of Groq": Case([*TEXTS, {"choices": [], "x_groq": {"usage": usage(4)}}], "usage", 4, [1] * 4),
    "usage in the choice": Case([chunk("a"), chunk("b", usage=usage(2))], "usage", 2, [1, 1]),
    "token ids that agree": Case([chunk("a", token_ids=[1, 2]), chunk("b", token_ids=[3]), final(4)], "token_ids", 4, [2, 1]),
    "token ids that do not agree": Case(
        [chunk("a", token_ids=[1, 2]), chunk("b", token_ids=[3]), final(40)], "token_ids", 40, [2, 1], "3 token ids came, but the usage says 40 tokens"
    ),
    "two choices": Case(
        [chunk("a"), chunk("B", index=1), chunk("b"), chunk("C", index=1), final(4)], "chunks", None, [1, 1], "the usage of 4 tokens counts several choices"
    ),
    "two choices with counts": Case(
        [chunk("a", 1), chunk("B", 1, index=1), chunk("b", 2), chunk("C", 2, index=1), final(4)], "continuous_usage", 2, [1, 1]
    ),
    "tokens without text": Case([final(40)], "usage", 40, [], "the usage says 40 tokens, but no chunk brought text"),
    "an end token alone": Case([final(1)], "usage", 1, []),
    "arguments of a tool": Case([chunk(None, delta={"tool_calls": [{"function": {"arguments": "{"}}]}), final(1)], "usage", 1, [1]),
    "one chunk more than tokens": Case([*TEXTS, final(3)], "usage", 3, [1] * 4),
    "an end token that only the total counts": Case([*TEXTS, final(5)], "chunks_and_end", 5, [1] * 4),
    "an end token, and reasoning outside the completion": Case([*REASONED, final(3, total=19, **REASONING)], "chunks_and_end", 9, [1] * 8),
    "an end token after hidden reasoning": Case([chunk("4"), chunk("2"), final(9, **REASONING)], "chunks_and_end", 9, [7, 1]),
    "two tokens more than chunks": Case([*TEXTS, final(6)], "usage", 6, [1] * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_count_that_agrees_with_the_stream_is_used(name: str) -> None:
    """A contradiction is reported where there is one, with the numbers, and nowhere else."""
    case = CASES[name]
    found = read(case.events)
    total = (found.usage or {}).get("completion_tokens")
    assert (found.token_source, total, found.tokens) == (case.source, case.total, case.tokens), found.counts_disagree
    assert (found.counts_disagree is None) == (case.says is None), found.counts_disagree
    assert (case.says or "") in (found.counts_disagree or "")
    assert case.arrivals in (None, found.arrival_ns)


def test_a_truncated_answer_has_no_end_token() -> None:
    """One token more than chunks then means two tokens in one of the chunks, and the total divides the time."""
    length = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    assert read([*TEXTS, length, final(5)], end=None).token_source == "usage"


def test_the_text_of_another_choice_is_left_out() -> None:
    both = {"choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "b"}}]}
    found = read([chunk("a"), chunk("A", index=1), both, chunk("c", index="0"), final(8)])
    assert "".join(content for _, content in found.pieces) == "abc"
    assert found.other_choices
    assert not read(TEXTS).other_choices


NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.just([]),
    st.just("7"),
)
EVENTS = st.lists(
    st.one_of(
        st.builds(chunk, st.sampled_from(["", "a", None]), NUMBERS),
        st.builds(chunk, st.sampled_from(["", "a"]), st.builds(usage, NUMBERS, NUMBERS, NUMBERS)),
        st.builds(lambda ids: chunk("a", token_ids=ids), st.one_of(st.none(), st.lists(NUMBERS, max_size=3))),
        st.builds(lambda index: chunk("b", 1, index=index), NUMBERS),
        st.builds(lambda c, t, r: final(c, total=t, completion_tokens_details={"reasoning_tokens": r}), NUMBERS, NUMBERS, NUMBERS),
    ),
    max_size=8,
)  # fmt: skip


@given(EVENTS)
def test_any_counts_give_possible_numbers_of_tokens(events: list[Any]) -> None:
    """Every event has at least one token, the events are in order, and no text of the first choice is lost."""
    found = read(events)
    assert found.outcome == "ok"
    assert all(type(count) is int and 1 <= count <= 10**8 for count in found.tokens)
    assert len(found.tokens) == len(found.arrival_ns) == len(found.pieces) == len(found.token_ids or found.tokens)
    assert found.arrival_ns == sorted(set(found.arrival_ns))
    total = (found.usage or {}).get("completion_tokens")
    assert total is None or 0 <= total <= 10**8
    assert found.token_source is not None or not found.tokens
