"""Makes streamed answers of many shapes and damages them, for `tests.fuzz.streams`. What is true of each one is known.

An answer is a list of events with their times. Its shape is chosen at random: where the counts are, how many tokens a chunk
holds, which field holds the reasoning, where the finish_reason is. Up to three mutations follow: another type or another
number in one place, another order, an event that is lost or sent twice, a changed byte, an early end. Answer `index` of a
seed is always the same, so that the server and the client can make it separately.

True are: the number of tokens that the server has generated, or the last count that still stands in the stream where a later
one was lost; and the times at which text was written before `[DONE]`. An event that was damaged may or may not be understood,
so both readings of it are true. A changed number is the only mutation of its answer, because two mutations could by chance
make a stream that is free of contradictions and means something else.

This module does not know the client.
"""

import copy
import json
import random
from dataclasses import dataclass
from typing import Any

GAP_MS, FIRST_MS = 60, 120
PROMPT_TOKENS = 21
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 1.5, 7.0, 10**12, 10**30, float("nan"), float("-inf")),
    *("", "null", "7", "x", "\ud800", "x" * 3000, [], {}, [[]], [{}], {"a": 1}, [None], ["x"], [7]),
)
REASONS = ("stop", "stop", "stop", "length", "abort", "MAX_TOKENS", "content_filter", "", "other")


@dataclass
class Event:
    """One event of a stream, and what is true of it."""

    at_ms: float
    payload: Any
    """A JSON object, or the text of the event."""
    has_text: bool = False
    damaged: bool = False

    def to_bytes(self) -> bytes:
        """Return the event as the server writes it."""
        text = self.payload if isinstance(self.payload, str) else json.dumps(self.payload)
        return f"data: {text}\n\n".encode("utf-8", "surrogatepass")


@dataclass
class Answer:
    """The bytes of one answer with their times, and what is true of them."""

    writes: list[tuple[float, bytes]]
    tokens: frozenset[int]
    first_ms: frozenset[float]
    """Times at which a correct client may see the first token; any time where it is empty."""
    last_ms: frozenset[float]
    mutations: tuple[str, ...]
    cut: bool
    """The connection is closed in mid-answer."""


def answer(seed: int, index: int) -> Answer:
    """Return answer `index` of a seed."""
    rng = random.Random(f"{seed}/{index}")
    events, tokens = _shape(rng)
    names = [rng.choice(sorted(MUTATIONS)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
    names = ["number"] if "number" in names else names
    for name in names:
        MUTATIONS[name](rng, events)
    writes = [(event.at_ms, event.to_bytes()) for event in events]
    cut = rng.random() < 0.05
    if cut:
        kept = rng.randrange(len(events))
        data = writes[kept][1]
        writes = [*writes[:kept], (writes[kept][0], data[: rng.randrange(len(data))])]
        events = events[: kept + 1]
        events[-1].damaged = True
    events = _until_done(events)
    counts = {tokens, max(map(_count, events), default=0) or tokens}
    if any(map(_is_other_choice, events)):
        counts.add(max((_count(event) for event in events if event.has_text), default=tokens))
    _mark_held_text(events)
    first = _possible(events)
    last = _possible(events[::-1])
    return Answer(writes, frozenset(counts), first, last, (*names, *(["cut"] if cut else [])), cut)


def _until_done(events: list[Event]) -> list[Event]:
    """Return the events up to `[DONE]`, which ends an answer whatever follows it."""
    ends = [i for i, event in enumerate(events) if event.payload == "[DONE]" and not event.damaged]
    return events[: ends[0]] if ends else events


def _count(event: Event) -> int:
    """Return the completion tokens that an undamaged event reports, or 0."""
    if event.damaged or not isinstance(event.payload, dict):
        return 0
    return int((event.payload.get("usage") or {}).get("completion_tokens", 0))


def _is_other_choice(event: Event) -> bool:
    """Tell whether an event has become part of a second choice, whose tokens are not those of the answer."""
    choices = event.payload.get("choices") if event.damaged and isinstance(event.payload, dict) else None
    found = choices[0] if isinstance(choices, list) and choices else None
    index = found.get("index") if isinstance(found, dict) else None
    return isinstance(index, int | float | str) and str(index) not in ("0", "", "False")


def _mark_held_text(events: list[Event]) -> None:
    """Mark text whose count is not larger than the one before: the server says that no token came with it."""
    before = 0.0
    for event in events:
        usage = event.payload.get("usage") if isinstance(event.payload, dict) else None
        count = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(count, int | float):
            event.damaged = event.damaged or (event.has_text and count <= before)
            before = count


def _possible(events: list[Event]) -> frozenset[float]:
    """Return the times of the events up to the first one that certainly has text; none where no event certainly has."""
    times = set()
    for event in events:
        if event.has_text or event.damaged:
            times.add(event.at_ms)
        if event.has_text and not event.damaged:
            return frozenset(times)
    return frozenset()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _shape(rng: random.Random) -> tuple[list[Event], int]:
    """Return the events of an undamaged answer, and the number of its tokens."""
    counts = rng.choice(("every chunk", "every chunk", "end", "end", "last chunk", "none"))
    field = rng.choice(("reasoning", "reasoning_content", "list", None))
    size = rng.randint(1, 4) if counts == "every chunk" else 1
    chunks = rng.randint(4, 8)
    finish = rng.choice(REASONS) if rng.random() < 0.2 else "stop"
    joined = rng.random() < 0.5
    events = []
    if rng.random() < 0.5:
        role = _chunk({"role": "assistant", "content": ""})
        events.append(Event(rng.choice((FIRST_MS / 2, FIRST_MS)), role))
    tokens, at_ms = 0, float(FIRST_MS)
    for i in range(chunks):
        tokens += size
        at_ms = FIRST_MS + GAP_MS * i
        chunk = _chunk(_delta(field if i < chunks // 2 else None, f"w{i} "))
        if i == chunks - 1 and joined:
            chunk["choices"][0]["finish_reason"] = finish
        if counts == "every chunk" or (counts == "last chunk" and i == chunks - 1):
            chunk["usage"] = _usage(tokens)
        events.append(Event(at_ms, chunk, has_text=True))
    if not joined:
        events.append(Event(at_ms, _chunk({}, finish)))
    if counts in ("every chunk", "end"):
        events.append(Event(at_ms, {"choices": [], "usage": _usage(tokens)}))
    return [*events, Event(at_ms, "[DONE]")], tokens


def _delta(field: str | None, text: str) -> dict[str, Any]:
    if field == "list":
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}
    return {field or "content": text}


def _change_type(rng: random.Random, events: list[Event]) -> None:
    event = rng.choice(events)
    event.damaged = True
    places = list(_places(event.payload))
    if places:
        holder, key = rng.choice(places)
        holder[key] = rng.choice(ODD_VALUES)


def _change_number(rng: random.Random, events: list[Event]) -> None:
    counted = [
        event for event in events if isinstance(event.payload, dict) and isinstance(event.payload.get("usage"), dict)
    ]
    if counted:
        event = rng.choice(counted)
        event.damaged = True
        usage = event.payload["usage"]
        name = rng.choice(sorted(usage))
        usage[name] = rng.choice((0, 1, -3, usage[name] + rng.randint(-3, 3), usage[name] * 2, 10**9, 4.5))


def _swap(rng: random.Random, events: list[Event]) -> None:
    """Exchange two events, but not their times."""
    i, j = rng.randrange(len(events)), rng.randrange(len(events))
    first, second = events[i], events[j]
    first.at_ms, second.at_ms = second.at_ms, first.at_ms
    events[i], events[j] = second, first


def _lose(rng: random.Random, events: list[Event]) -> None:
    if len(events) > 2:
        del events[rng.randrange(len(events))]


def _repeat(rng: random.Random, events: list[Event]) -> None:
    i = rng.randrange(len(events))
    events.insert(i, copy.deepcopy(events[i]))


def _change_byte(rng: random.Random, events: list[Event]) -> None:
    event = rng.choice(events)
    event.damaged = True
    text = event.payload if isinstance(event.payload, str) else json.dumps(event.payload)
    i = rng.randrange(len(text))
    event.payload = text[:i] + rng.choice('\0\n{}[]",:x0é') + text[i + 1 :]


MUTATIONS = {
    "type": _change_type,
    "number": _change_number,
    "swap": _swap,
    "lose": _lose,
    "repeat": _repeat,
    "byte": _change_byte,
}


def _places(value: Any) -> Any:
    """Yield every (container, key) in a JSON value."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(keys):
        yield value, key
        yield from _places(inner)
