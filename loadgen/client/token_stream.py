"""Turns the events of one streamed response into the token events, the text and the ending of its Exchange.

Every event comes with the timestamp of the read that brought it. While events arrive, chunks with text, token ids or a new
count are only logged; `finish` then decides how many tokens each of them brought (`loadgen/client/token_counts.py`) and
whether the answer ended well (`loadgen/client/finish_reasons.py`). A chunk with only a role is no token event. Only the
first choice (index 0) is read. A fault of the server becomes the outcome of the Exchange and never an exception.

This module does no I/O and reads no clock. It does not know HTTP, nor when the request was due.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from loadgen.client.error_text import clip, describe_error, find_error, is_error
from loadgen.client.finish_reasons import MAX_REASON_CHARS, Meaning, meaning_of
from loadgen.client.loose_json import NotJSONError, read_json
from loadgen.client.sse import ErrorEvent, SSEDecoder
from loadgen.client.stream_chunk import (
    ELSEWHERE,
    TYPE_ERRORS,
    Chunk,
    ChunkChoice,
    Delta,
    TokenUsage,
    decode_loosely,
    decode_typed,
    timings_of,
)
from loadgen.client.token_counts import StreamLog, settle, settle_usual, settle_whole
from loadgen.exchange import Exchange, Outcome

DONE = b"[DONE]"
THINK_TAG = re.compile(r"</?(think|thought|reasoning)")
"""Shows that an answer's own text holds the reasoning."""
NO_DELTA = Delta()
NO_ANSWER: dict[Meaning, tuple[Outcome, str]] = {
    "failed": ("server_error", "the server gave the answer up"),
    "filtered": ("filtered", "the server filtered the answer"),
}
"""Outcome and error text of an answer that its finish_reason says to be none."""
MAX_EVENT_BYTES = 16 * 2**20
"""No server sends a longer event or a longer answer. Without a limit, an endless one would fill the memory."""


@dataclass(slots=True)
class TokenStream:
    """Reads the events of one response into `exchange`."""

    exchange: Exchange
    done: bool = False
    """`[DONE]` was read."""
    failed: bool = False
    """The server reported an error or sent something unusable; the outcome says what."""
    events: int = 0
    _sse: SSEDecoder = field(default_factory=SSEDecoder)
    _log: StreamLog = field(default_factory=StreamLog)
    _usage: TokenUsage | None = None
    """The last usage object."""
    _logged_usage: TokenUsage | None = None
    """The usage object of the last entry of the log."""
    _totals: list[int] = field(default_factory=list)
    """Completion tokens of the usage objects since the last text, from the finish_reason on: each should count the whole answer."""
    _resumed: bool = False
    """Text came after a finish_reason, as from a gateway that sent the request again: its usage may count the last one alone."""
    _meaning: Meaning = "unfinished"
    _settled: bool = False

    def feed(self, reads: list[tuple[int, bytes]]) -> None:
        """Read parts of the body in order, each with the timestamp of its read."""
        if self._ended():
            return
        for stamp_ns, event in self._sse.feed_reads(reads):
            self._read_event(stamp_ns, event)
            if self.done or self.failed:
                return
        if self._sse.pending_bytes > MAX_EVENT_BYTES:
            self.fail("malformed", f"an event of more than {MAX_EVENT_BYTES} bytes")

    def read_answer(self, stamp_ns: int, body: bytes) -> bool:
        """Read a whole answer in one JSON body, which ended at `stamp_ns`; return whether it is one."""
        try:
            chunk = decode_loosely(body)
        except NotJSONError:
            return False
        if chunk is None or not chunk.choices or is_error(chunk.error):
            return False
        self.exchange.streamed = False
        self._read_chunk(stamp_ns, chunk, body)
        return True

    def finish(self, stamp_ns: int) -> None:
        """Decide the outcome and the counts: the body has ended, complete or not."""
        exchange = self.exchange
        for event in self._sse.close():
            if not self._ended() and _is_complete(event):
                self._read_event(stamp_ns, event)
        self._settle()
        if self.failed or exchange.outcome != "ok":
            return
        if exchange.finish_reason is None:
            exchange.outcome = "cut"
            exchange.error = f"{DONE.decode() if self.done else 'the answer ended'} without a finish_reason"
        elif self._meaning in NO_ANSWER:
            exchange.outcome, said = NO_ANSWER[self._meaning]
            exchange.error = f"{said}: finish_reason {exchange.finish_reason}"

    def complete(self) -> bool:
        """Return whether the response is complete, however the connection ends."""
        return self.exchange.finish_reason is not None and not self.failed

    def fail(self, outcome: Outcome, error: str) -> None:
        """End the stream with an error: nothing after it is read."""
        self.failed = True
        self.exchange.outcome = outcome
        self.exchange.error = error

    @property
    def token_count(self) -> int:
        """Tokens until now: while the response arrives, as the last chunk says; after `finish`, as in the Exchange."""
        if self._settled:
            return sum(self.exchange.tokens)
        log = self._log
        if log.ids is not None:
            return sum(len(ids or ()) for ids in log.ids)
        return max(self._last_count() or 0, len(log.counts))

    def _last_count(self) -> int | None:
        counts = self._log.counts
        return counts[-1] if counts else None

    def _ended(self) -> bool:
        return self.done or self.failed

    def _read_event(self, stamp_ns: int, event: bytes) -> None:
        self.events += 1
        if event == DONE:
            self.done = True
            return
        chunk: Chunk | None
        try:
            chunk = decode_typed(event)
        except TYPE_ERRORS as error:
            if event.strip() == DONE:
                self.done = True
                return
            try:
                chunk = decode_loosely(event)
            except NotJSONError:
                self._fail_without_json(event, error)
                return
        if chunk is None:
            if not self._reports_error(event):
                self.fail("malformed", f"not a chunk: {event[:200].decode(errors='replace')}")
        elif (chunk.choices and not isinstance(event, ErrorEvent)) or not self._reports_error(event):
            self._read_chunk(stamp_ns, chunk, event)

    def _fail_without_json(self, event: bytes, error: Exception) -> None:
        if isinstance(event, ErrorEvent):
            self.fail("server_error", clip(event.decode(errors="replace").strip()))
        else:
            self.fail("malformed", f"{error}: {event[:200].decode(errors='replace')}")

    def _reports_error(self, event: bytes) -> bool:
        """End the stream where an event reports an error, in whatever shape; return whether it does."""
        try:
            content: Any = read_json(event)
        except NotJSONError:  # nested so deeply that only the typed decoder could skip it
            return False
        error = content if isinstance(event, ErrorEvent) and content else find_error(content)
        if isinstance(error, dict) and is_error(error.get("error")):
            error = error["error"]
        if error is None:
            return False
        self.fail(*describe_error(error))
        return True

    def _read_chunk(self, stamp_ns: int, chunk: Chunk, event: bytes) -> None:
        if chunk.error is not None and is_error(chunk.error):
            self.fail(*describe_error(chunk.error))
            return
        usage, choices = chunk.usage, chunk.choices
        choice: ChunkChoice | None = None
        if choices:
            choice = choices[0]
            if choice.index or len(choices) > 1:
                choice, usage = self._first_choice(choices), None
            if usage is None and choice is not None:
                usage = choice.usage
        if usage is None and chunk.x_groq is not None:
            usage = chunk.x_groq.usage
        if usage is not None:
            self._usage = usage if usage.completion_tokens and usage.prompt_tokens else _merged(self._usage, usage)
        if choice is not None:
            self._read_choice(stamp_ns, choice, None if usage is None else usage.completion_tokens, event)
        if usage is not None and usage.completion_tokens and self.exchange.finish_reason is not None:
            self._totals.append(usage.completion_tokens)
        if chunk.metrics is not None:
            self.exchange.server_timings = timings_of(chunk.metrics)

    def _first_choice(self, choices: list[ChunkChoice]) -> ChunkChoice | None:
        """Return the choice with index 0. The others are answers of their own, which must not mix with its text."""
        self._log.other_choices = True
        return next((choice for choice in choices if not choice.index), None)

    def _read_choice(self, stamp_ns: int, choice: ChunkChoice, count: int | None, event: bytes) -> None:
        if choice.error is not None and is_error(choice.error):
            self.fail(*describe_error(choice.error))
            return
        delta, log = choice.delta or NO_DELTA, self._log
        content = delta.content or choice.text or ""
        reasoning = delta.reasoning or delta.reasoning_content or ""
        is_entry: Any = True
        if not (content or reasoning):
            content, reasoning, other = _text_elsewhere(choice, event)
            is_entry = content or reasoning or other or choice.token_ids or (count and count != self._last_count())
            if other:
                log.others.append(len(log.counts))
            elif is_entry and b'"role"' in event:
                log.roles.append(len(log.counts))
        if is_entry:
            exchange = self.exchange
            self._logged_usage = self._usage
            log.counts.append(count)
            exchange.arrival_ns.append(stamp_ns)
            exchange.pieces.append((reasoning, content))
            if choice.token_ids is not None or log.ids is not None:
                log.ids = log.ids or [None] * (len(log.counts) - 1)
                log.ids.append(choice.token_ids)
            if content or reasoning:
                self._totals.clear()
                self._resumed |= self._meaning != "unfinished"
            if reasoning:
                log.reasoning = True
            if content and log.reasoning and exchange.first_answer_ns is None:
                exchange.first_answer_ns = stamp_ns
        if choice.finish_reason is not None:
            self._read_finish(choice.finish_reason)

    def _read_finish(self, reason: str) -> None:
        meaning, word = meaning_of(reason)
        if meaning == "unfinished" or self._meaning in NO_ANSWER:  # some gateways close a failed answer with `stop`
            return
        self._meaning = meaning
        exchange = self.exchange
        exchange.finish_reason = word
        exchange.finish_reason_sent = None if word == reason else reason[:MAX_REASON_CHARS]

    def _settle(self) -> None:
        """Decide how many tokens each event brought, and remove those that brought none."""
        exchange, log, usage = self.exchange, self._log, self._usage
        log.usage, log.complete = usage, self._meaning == "complete"
        exchange.other_choices = log.other_choices
        log.has_total = usage is not None and usage is not self._logged_usage
        if log.ids is not None:
            exchange.token_ids = [ids or [] for ids in log.ids]
        has_text_first = bool(exchange.pieces) and exchange.pieces[0] != ("", "") and exchange.streamed
        usual = found = settle_usual(log) if has_text_first else None
        if found is None:
            log.texts = [bool(content or reasoning) for reasoning, content in exchange.pieces]
            for other in log.others:
                log.texts[other] = True
            log.reasoning |= THINK_TAG.search("".join(content for _, content in exchange.pieces)) is not None
            found = settle(log) if exchange.streamed else settle_whole(log)
            exchange.hidden_tokens, exchange.counts_disagree = found.hidden, found.disagree
        if self._resumed and (found.total or 0) > sum(found.tokens) + 1:
            exchange.counts_disagree = f"text came after the finish_reason: {found.total} tokens may be those of a part"
        if self._totals and max(self._totals) > min(self._totals) + 1:
            said = " and then ".join(map(str, self._totals[:4]))
            exchange.counts_disagree = f"the server counts {said} tokens in the whole answer"
        exchange.tokens, exchange.token_source = list(found.tokens), found.source
        if usual is None and exchange.streamed and found.tokens and min(found.tokens) < 1:
            _remove_empty(exchange)
        if usage is not None:
            exchange.usage = _usage_fields(usage, found.total)
        self._settled = True


def _remove_empty(exchange: Exchange) -> None:
    """Remove the events without tokens. Their text is added to the event before them, or to the first one with tokens."""
    kept = [i for i, tokens in enumerate(exchange.tokens) if tokens > 0]
    starts = [0, *kept[1:]] if kept else []
    groups = [exchange.pieces[start:end] for start, end in pairwise([*starts, None])]
    exchange.pieces = [("".join(r for r, _ in group), "".join(c for _, c in group)) for group in groups]
    exchange.arrival_ns = [exchange.arrival_ns[i] for i in kept]
    exchange.tokens = [exchange.tokens[i] for i in kept]
    if exchange.token_ids is not None:
        exchange.token_ids = [exchange.token_ids[i] for i in kept]


def _text_elsewhere(choice: ChunkChoice, event: bytes) -> tuple[str, str, bool]:
    """Return answer and reasoning text of a choice without text in the usual fields, and whether it has other text."""
    if choice.other_text or not ELSEWHERE.search(event):
        return "", "", choice.other_text
    try:
        chunk = decode_loosely(event)
    except NotJSONError:
        return "", "", False
    choices = chunk.choices if chunk is not None else None
    found = next((one for one in choices or () if not one.index), choice)
    delta = found.delta or NO_DELTA
    return delta.content or "", delta.reasoning or "", found.other_text


def _merged(before: TokenUsage | None, usage: TokenUsage) -> TokenUsage:
    """Return a usage object with the fields that it lacks taken from the one before it: some servers send it in two parts."""
    if before is None:
        return usage
    names = usage.__struct_fields__
    merged = TokenUsage(*(getattr(usage, name) or getattr(before, name) for name in names))
    if usage.completion_tokens and usage.total_tokens is None:  # the total before was that of another count
        merged.total_tokens = None
    return merged


def _usage_fields(usage: TokenUsage, completion: int | None) -> dict[str, Any]:
    """Return the numbers of the usage object that can be used, with the number of output tokens that was decided on."""
    reasoning, cached = usage.reasoning(), usage.cached()
    found = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": usage.total_tokens,
        "completion_tokens_details": None if reasoning is None else {"reasoning_tokens": reasoning},
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_complete(event: bytes) -> bool:
    """Return whether the last event, which lacks its final newline, was sent completely."""
    try:
        return event.strip() == DONE or read_json(event) is not None
    except NotJSONError:
        return False
