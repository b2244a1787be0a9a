"""Turns a Request and its Exchange into a Record, with the formulas of docs/metrics.md.

No clock is read here. A value that was not measured is None, never zero. A failed request keeps what was measured.

This module does not know percentiles over requests, token budgets or files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate
from operator import sub
from statistics import median
from typing import Any

from loadgen.clock import RunClock
from loadgen.exchange import THINK_END, Exchange, Request, TokenSource
from loadgen.measure.quantiles import weighted_median
from loadgen.record import Record

OF_REQUEST = set(Record.__struct_fields__) & {field.name for field in fields(Request)}
OF_EXCHANGE = set(Record.__struct_fields__) & {field.name for field in fields(Exchange)} - {"hidden_tokens"}
"""Fields of a record that are those of its request and its exchange. A record has null instead of no hidden tokens."""
AT_END: tuple[TokenSource, ...] = ("usage", "corrected_usage")
"""The server counted the tokens only once, at the end, so the number of tokens in each chunk is not known."""
TOGETHER_NS = 100_000
"""Token events that are no further apart have arrived together: in one read of the socket, or in reads of the segments of one
write. A step of an engine takes longer."""
CLUMPED_LIMIT = 0.5
"""Where more than this share of the token events arrived together with another one, most gaps between them were
lost on the way, and the median gap is 0. It is then not measured. Single joined reads are normal."""
FIRST_LIMIT = 0.1
"""TPOT is too small by the share of the later events that came together with the first: they had been held back until then. Where
this is above the limit, TPOT is not measured."""
EVENTS_TOGETHER = 8
"""Nor is it where more events than this arrived together on average: a buffer between engine and client sets the pace then. A busy
client joins two to four."""
BETWEEN_TOKENS = ("tpot", "itl", "inter_chunk")
"""Objectives that one token alone cannot meet or miss."""
ONE_CHUNK_TOKENS = 32
"""An answer of more tokens than this in a single chunk was held back. One step of an engine brings fewer, also with speculation."""


def to_record(
    request: Request,
    exchange: Exchange,
    due_ns: int,
    clock: RunClock,
    *,
    run_id: str,
    emulated: bool = False,
    simulated: bool = False,
    keep_text: bool = True,
) -> Record:
    """Return the record of one request, which is one line of `records.jsonl`."""
    usage = exchange.usage or {}
    reasoning, text = ("".join(part) for part in zip(*exchange.pieces or [("", "")], strict=True))
    record = Record(
        run_id=run_id,
        emulated=emulated,
        simulated=simulated,
        **{name: getattr(request, name) for name in OF_REQUEST},
        **{name: getattr(exchange, name) for name in OF_EXCHANGE},
        **_times(exchange, due_ns, clock),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=completion_tokens(exchange),
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        chunks=len(exchange.arrival_ns),
        hidden_tokens=exchange.hidden_tokens or None,
        connection_reused=exchange.reused,
        text=text if keep_text else None,
        reasoning=(reasoning or None) if keep_text else None,
    )
    if clock.scale != 1:
        record.raw = raw_stamps(record, clock.scale)
    return record


def _times(exchange: Exchange, due_ns: int, clock: RunClock) -> dict[str, Any]:
    """Return the stamps and the latencies of a record, in model seconds."""
    arrivals, sent_ns = exchange.arrival_ns, exchange.sent_ns
    first_ns, last_ns = (arrivals[0], arrivals[-1]) if arrivals else (None, None)
    answer_ns = exchange.first_answer_ns or _after_thinking(exchange)
    if not exchange.streamed:
        first_ns = answer_ns = None
    gaps = gaps_ns(arrivals)
    together = arrived_together(gaps)
    share = clumped_share(exchange, together)
    gap_ns = median(gaps) if gaps and (share or 0.0) <= CLUMPED_LIMIT else None
    return {
        "due_s": clock.at_s(due_ns),
        "sent_s": clock.at_s(sent_ns),
        "connect_s": _seconds(exchange.connect_ns, clock),
        "clumped_share": share,
        "headers_s": clock.at_s(exchange.headers_ns),
        "first_token_s": clock.at_s(first_ns),
        "last_token_s": clock.at_s(last_ns),
        "end_s": clock.at_s(exchange.end_ns),
        "ttft_s": clock.between_s(sent_ns, first_ns),
        "ttft_due_s": clock.between_s(due_ns, first_ns),
        "ttfot_s": clock.between_s(sent_ns, answer_ns),
        "tpot_s": None if _held_back(together) else _seconds(tpot_ns(exchange), clock),
        "itl_s": _seconds(itl_ns(exchange, gap_ns), clock),
        "inter_chunk_s": _seconds(gap_ns, clock),
        "e2e_s": clock.between_s(sent_ns, last_ns),
        "e2e_due_s": clock.between_s(due_ns, last_ns),
        "send_lag_s": clock.between_s(due_ns, sent_ns),
    }


def completion_tokens(exchange: Exchange) -> int | None:
    """Return the server's count of tokens where it gave one, and otherwise the sum over the token events, if any."""
    reported = (exchange.usage or {}).get("completion_tokens")
    counted = sum(exchange.tokens)
    if isinstance(reported, int) and (reported >= counted or exchange.token_source in AT_END):
        return reported
    if not exchange.streamed:
        return None
    return counted if counted or exchange.outcome == "ok" else None


def tpot_ns(exchange: Exchange) -> float | None:
    """Return (last token − first token) / tokens after the first chunk, or None for fewer than two chunks."""
    after_first = _after_first(exchange)
    return (exchange.arrival_ns[-1] - exchange.arrival_ns[0]) / after_first if after_first > 0 else None


def _after_first(exchange: Exchange) -> int:
    """Return the tokens of the chunks after the first. An end token that only the total counts has no chunk and no time."""
    if exchange.token_source in AT_END and len(exchange.tokens) > 1:
        return (completion_tokens(exchange) or 0) - exchange.tokens[0]
    return sum(exchange.tokens[1:])


def itl_ns(exchange: Exchange, gap_ns: float | None) -> float | None:
    """Return the median of gap / tokens in the chunk, with one value for each token after the first chunk.

    Where the server counted tokens only at the end, every later chunk is assumed to hold the same number of them. `gap_ns`
    is the median raw gap. It is passed in because it is the result where every chunk is one token, and
    sorting 4,096 gaps a second time would take 0.5 ms.
    """
    counts = exchange.tokens[1:]
    if gap_ns is None:
        return None
    if exchange.token_source in AT_END:
        after_first = _after_first(exchange)
        return gap_ns * len(counts) / after_first if after_first > 0 else None
    if max(counts) == 1:
        return gap_ns
    gaps = gaps_ns(exchange.arrival_ns)
    return weighted_median((gap / tokens, tokens) for gap, tokens in zip(gaps, counts, strict=True) if tokens)


def clumped_share(exchange: Exchange, sizes: Sequence[int]) -> float | None:
    """Return the share of the token events that arrived together with another one, or None for fewer than two events.

    `sizes` are those of `arrived_together`. Several tokens in one chunk are no clump: the server has sent them together. A
    single chunk with a long answer is one.
    """
    events = len(exchange.arrival_ns)
    if events < 2:
        return 1.0 if exchange.streamed and sum(exchange.tokens) - exchange.hidden_tokens > ONE_CHUNK_TOKENS else None
    return round(sum(size for size in sizes if size > 1) / events, 4)


def arrived_together(gaps: Sequence[int]) -> list[int]:
    """Return how many events arrived together each time. The list is empty where all events came one by one."""
    if not gaps or min(gaps) > TOGETHER_NS:
        return []
    sizes = [1]
    for gap in gaps:
        if gap <= TOGETHER_NS:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


def _held_back(sizes: Sequence[int]) -> bool:
    """Return whether so many events arrived together that the time from the first to the last one tells no time per token."""
    events = sum(sizes)
    return bool(sizes) and (sizes[0] - 1 > FIRST_LIMIT * (events - 1) or events > EVENTS_TOGETHER * len(sizes))


def gaps_ns(arrivals: Sequence[int]) -> list[int]:
    """Return the gaps between successive stamps."""
    return list(map(sub, arrivals[1:], arrivals))


def raw_stamps(record: Record, scale: float) -> dict[str, float | None]:
    """Return the record's stamps in real seconds."""
    names = ("due_s", "sent_s", "headers_s", "first_token_s", "last_token_s", "end_s")
    stamps = {name: getattr(record, name) for name in names}
    return {name: None if value is None else round(value / scale, 9) for name, value in stamps.items()}


def _seconds(ns: float | None, clock: RunClock) -> float | None:
    return None if ns is None else round(ns * clock.scale / 1e9, 9)


def _detail(usage: dict[str, Any], group: str, name: str) -> int | None:
    value = (usage.get(group) or {}).get(name)
    return value if isinstance(value, int) else None


def _after_thinking(exchange: Exchange) -> int | None:
    """Return when the first text after `</think>` arrived, where the reasoning is part of the content."""
    text = "".join(content for _, content in exchange.pieces)
    _, tag, answer = text.partition(THINK_END)
    answer = answer.lstrip()
    if not (tag and answer):
        return None
    ends = list(accumulate(len(content) for _, content in exchange.pieces))
    return exchange.arrival_ns[bisect_right(ends, len(text) - len(answer))]


def meets(record: Record, slo: dict[str, float]) -> bool:
    """Tell whether a request succeeded and met every objective. What was not measured is not met.

    One exception: an answer of exactly one token has no time between tokens, so objectives on it do not apply.
    """
    if record.outcome != "ok" or record.e2e_s is None:
        return False
    one_token = record.completion_tokens == 1 and record.chunks == 1 and record.streamed
    values = {name: getattr(record, f"{name}_s") for name in slo}
    return all(
        (one_token and name in BETWEEN_TOKENS) if value is None else value <= slo[name]
        for name, value in values.items()
    )
