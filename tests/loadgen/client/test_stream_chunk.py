"""A field of an unexpected type never costs an answer, and an error is found in whatever shape it is sent."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.error_text import MAX_ERROR_CHARS
from loadgen.client.token_stream import TokenStream
from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import to_record
from loadgen.record import Record
from tests.fixtures.hostile import delta, event, usage

REQUEST = Request(0, "p", 0, 64, "cut", "/chat/completions", {})
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


def record(*events: bytes, end: bytes = END) -> Record:
    """Read events that arrived one millisecond apart and return their record."""
    exchange = Exchange(0)
    stream = TokenStream(exchange)
    for at, data in enumerate([*events, end], start=1):
        stream.feed([(at * 10**6, data)])
    stream.finish(10**9)
    return to_record(REQUEST, exchange, 0, RunClock(0), run_id="r")


def changed(text: str, **fields: Any) -> bytes:
    """Return a chunk with `text` and other fields in its choice."""
    chunk = delta(text)
    chunk["choices"][0] |= fields
    return event(chunk)


def in_delta(**fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields}]})


def as_sent(body: str) -> bytes:
    return event(body.encode())


ODD_CHUNKS: dict[str, bytes] = {
    "infinite logprob": as_sent('{"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"logprob":-Infinity}]}}]}'),
    "NaN": as_sent('{"choices":[{"index":0,"delta":{"content":"b"},"score":NaN}],"created":NaN}'),
    "numbers that no type holds": as_sent('{"created":1e999,"choices":[{"index":0,"delta":{"content":"b"}}],"system_fingerprint":' + "9" * 5000 + "}"),
    "numbers as text": event({"created": "1", "choices": [{"index": "0", "delta": {"content": "b"}}]}),
    "numbers as floats": event({"choices": [{"index": 0.0, "delta": {"content": "b"}, "stop_reason": 1.5}]}),
    "content as a list": in_delta(content=[{"type": "text", "text": "b"}]),
    "null fields": event({"choices": [{"index": None, "delta": {"content": "b", "reasoning": None}, "token_ids": None}], "usage": None, "metrics": None}),
    "lists for objects": event({"choices": [{"index": 0, "delta": {"content": "b"}}], "usage": [], "metrics": [], "x_groq": []}),
    "an empty error": event(delta("b") | {"error": ""}),
    "an error of nothing": event(delta("b") | {"error": {"message": None, "code": None}}),
    "a null error": event(delta("b") | {"error": None}),
    "unusable token ids": changed("b", token_ids=["x", -1, None]),
    "a message in place of the delta": event({"choices": [{"index": 0, "message": {"content": "b"}}]}),
    "no list of choices": event({"choices": {"index": 0, "delta": {"content": "b"}}}),
    "damaged UTF-8 in another field": as_sent('{"choices":[{"index":0,"delta":{"content":"b"}}],"note":"?"}').replace(b"?", b"\xff"),
    "a control character": as_sent('{"choices":[{"index":0,"delta":{"content":"b"}}],"note":"\t\x01"}'),
    "deep metadata": event(delta("b") | {"meta": json.loads("[" * 300 + "]" * 300)}),
    "timings that are none": event(delta("b") | {"metrics": {"a": -1, "b": True, "c": "x", "d": None, "e": {}}}),
    "no space and a space at the end": b"data:" + json.dumps(delta("b")).encode() + b" \n\n",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_a_field_that_nobody_needs_costs_nothing(name: str) -> None:
    found = record(event(delta("a")), ODD_CHUNKS[name], event({"choices": [], "usage": usage(2)}))
    assert (found.outcome, found.text, found.chunks, found.completion_tokens) == ("ok", "ab", 2, 2)
    assert (found.counts_disagree, found.server_timings) == (None, None)
    assert found.ttft_s == 0.001


@pytest.mark.parametrize(
    "chunk",
    [
        event({"choices": [{"index": 0, "delta": []}]}),
        event({"choices": [{"index": 0, "delta": None}]}),
        event({"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": ""}]}),
        event({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "null"}]}),
        event({"choices": [None, 3, {"index": 0}]}),
        event({"choices": None}),
        event({"choices": "none"}),
        event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        event({"type": "ping"}),
        event({}),
    ],
)
def test_a_chunk_without_text_changes_nothing(chunk: bytes) -> None:
    found = record(chunk, event(delta("a")), chunk, event(delta("b")), chunk)
    assert (found.outcome, found.text, found.chunks, found.ttft_s) == ("ok", "ab", 2, 0.002)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": None, "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": ""}]},
        {"reasoning_content": [{"type": "text", "text": "hm"}]},
        {"thinking": "hm"},
        {"reasoning": {"text": "hm"}, "content": 5},
    ],
)
def test_reasoning_is_read_wherever_it_is(fields: dict[str, Any]) -> None:
    found = record(in_delta(**fields), event(delta("b")))
    assert (found.reasoning, found.text, found.ttft_s, found.ttfot_s) == ("hm", "b", 0.001, 0.002)


@pytest.mark.parametrize("depth", [*range(900, 1010), 100_000])
def test_deep_nesting_raises_nothing(depth: int) -> None:
    """Near the limit of recursion one decoder can skip what another one cannot read."""
    found = record(event(b'{"x":' + b"[" * depth + b"]" * depth + b"}"))
    assert found.outcome in ("ok", "malformed")


def test_lone_surrogates_are_replaced() -> None:
    """A record with one could not be written."""
    found = record(as_sent('{"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}'), event(delta("b")))
    assert found.text is not None
    assert found.text.encode().startswith(b"a\xef\xbf\xbd")
    assert found.text.endswith("b")


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (event({"error": {"message": "boom", "type": "server_error", "code": 500}}), "boom (code 500)"),
        (event({"error": "boom"}), "boom"),
        (event({"error": {"error": {"message": "boom"}}}), "boom"),
        (event({"error": ["boom"]}), '["boom"]'),
        (event({"object": "error", "message": "boom", "type": "BadRequest", "code": 400}), "boom (code 400)"),
        (event({"message": "boom"}), "boom"),
        (event({"detail": "boom"}), "boom"),
        (event({"detail": [{"loc": ["body"], "msg": "boom"}]}), "boom"),
        (event({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}), "boom"),
        (event([{"error": {"code": 503, "message": "boom", "status": "UNAVAILABLE"}}]), "boom (code 503)"),
        (b"event: error\n" + event({"message": "boom"}), "boom"),
        (b"event: error\n" + event({"text": "boom"}), '{"text":"boom"}'),
        (b"event: error\n" + event(b"boom"), "boom"),
        (b'error: {"message": "boom"}\n\n', "boom"),
        (event(delta("") | {"error": {"message": "boom", "code": None}}), "boom"),
        (as_sent('{"error": {"message": "boom", "retry": Infinity}}'), "boom"),
    ],
)  # fmt: skip
def test_an_error_inside_a_stream_is_the_servers(sent: bytes, text: str) -> None:
    """What was measured until then is kept."""
    found = record(event(delta("a")), sent, end=b"")
    assert (found.outcome, found.error, found.text, found.chunks) == ("server_error", text, "a", 1)


@pytest.mark.parametrize(
    "error", [{"message": "slow", "code": 429}, {"message": "slow", "code": "rate_limit_exceeded"}, {"message": "slow", "type": "rate_limit_error"}]
)  # fmt: skip
def test_a_rate_limit_inside_a_stream_is_one(error: dict[str, Any]) -> None:
    assert record(event({"error": error})).outcome == "rate_limited"


def test_a_long_error_is_kept_with_its_length() -> None:
    found = record(event({"error": "x" * 10**6}))
    assert found.error == "x" * MAX_ERROR_CHARS + "… (1,000,000 characters)"


def test_events_of_other_types_are_no_errors() -> None:
    found = record(b"event: message\n" + event(delta("a")), b"event: ping\ndata: {}\n\n", event(delta("b")))
    assert (found.outcome, found.text) == ("ok", "ab")


def test_done_may_be_followed_by_a_space() -> None:
    stream = TokenStream(Exchange(0))
    stream.feed([(1, END + b"data: [DONE] \n\n")])
    assert (stream.done, stream.failed) == (True, False)


@pytest.mark.parametrize(
    ("reason", "outcome", "kept"),
    [
        ("stop", "ok", ("stop", None)),
        ("MAX_TOKENS", "ok", ("length", "MAX_TOKENS")),
        ("banana", "ok", ("banana", None)),
        ("abort", "server_error", ("abort", None)),
        ("content_filter", "filtered", ("content_filter", None)),
        ({"type": "length", "length": 64}, "ok", ("length", None)),
        (7, "ok", ("7", None)),
        ("", "cut", (None, None)),
        ("null", "cut", (None, None)),
        ([], "cut", (None, None)),
        (False, "cut", (None, None)),
    ],
)
def test_the_finish_reason_decides_the_outcome(reason: Any, outcome: str, kept: tuple[str | None, str | None]) -> None:
    found = record(event(delta("a")), end=changed("", finish_reason=reason) + event(b"[DONE]"))
    assert (found.outcome, (found.finish_reason, found.finish_reason_sent)) == (outcome, kept)
    assert (found.error is None) == (outcome == "ok")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=3), st.sampled_from(["stop", "a", "429"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(
        ["choices", "delta", "content", "reasoning", "index", "usage", "completion_tokens", "error", "message", "finish_reason", "text", "type",
         "token_ids", "metrics", "tool_calls", "completion_tokens_details", "x_groq", "detail", "code"]), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(st.one_of(JSON, st.builds(lambda choice: {"choices": [choice]}, JSON)), max_size=4))
def test_any_json_gives_a_record_that_can_be_written_and_read(events: list[Any]) -> None:
    found = record(*(event(json.dumps(one).encode()) for one in events))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found
