"""Turns the events of one streamed response into the token events, the text and the ending of its Exchange.

Every event comes with the timestamp of the read that brought it. A token event is a chunk in which the number of completion
tokens grew; a chunk with only a role is none. Both `reasoning` and `reasoning_content` are reasoning text. Token counts come
from `continuous_usage_stats`, else from `token_ids`, else from the final usage, else from the number of chunks with text;
`token_source` says which. A fault of the server becomes the outcome of the Exchange and never an exception.

This module does no I/O and reads no clock. It does not know HTTP, nor when the request was due.
"""

from typing import Any

import msgspec

from loadgen.client.sse import SSEDecoder
from loadgen.exchange import Exchange, Outcome

BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not JSON, not UTF-8, or nested too deeply."""
MAX_LINE_BYTES = 64 * 2**20
"""No server sends a longer event. Without a limit, an endless line would fill the memory."""

CONTINUOUS, IDS, CHUNKS = "continuous_usage", "token_ids", "chunks"
"""Sources of token counts, as in `Exchange.token_source`."""


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    metrics: dict[str, Any] | None = None
    system_fingerprint: str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class TokenStream:
    """Reads the events of one response into `exchange`."""

    __slots__ = (
        "_has_reasoning",
        "_source",
        "_sse",
        "_usage",
        "done",
        "events",
        "exchange",
        "failed",
        "token_count",
    )

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.done = False
        """`[DONE]` was read."""
        self.failed = False
        """The server reported an error or sent something unusable; the outcome says what."""
        self._sse = SSEDecoder()
        self._source: str | None = None
        self.token_count = 0
        """Tokens of the token events until now."""
        self.events = 0
        self._usage: _Usage | None = None
        """The last usage object."""
        self._has_reasoning = False

    def feed(self, reads: list[tuple[int, bytes]]) -> None:
        """Read parts of the body in order, each with the timestamp of its read."""
        if self._ended():
            return
        for stamp_ns, event in self._sse.feed_reads(reads):
            self._read_event(stamp_ns, event)
            if self.done or self.failed:
                return
        if self._sse.pending_bytes() > MAX_LINE_BYTES:
            self.fail("malformed", f"a line of more than {MAX_LINE_BYTES} bytes")

    def finish(self, stamp_ns: int) -> None:
        """Decide the outcome and the counts: the body has ended, complete or not."""
        exchange = self.exchange
        for event in self._sse.close():
            if not self._ended() and _is_complete(event):
                self._read_event(stamp_ns, event)
        if self._usage is not None:
            fields = msgspec.structs.asdict(self._usage)
            exchange.usage = {name: value for name, value in fields.items() if value is not None}
        exchange.token_source = self._token_source()
        if self.failed or exchange.outcome != "ok":
            return
        if exchange.finish_reason is None:
            exchange.outcome = "cut"
            exchange.error = (
                "[DONE] without a finish_reason" if self.done else "the stream ended without a finish_reason"
            )

    def complete(self) -> bool:
        """Return whether the response is complete, however the connection ends."""
        return self.exchange.finish_reason is not None and not self.failed

    def fail(self, outcome: Outcome, error: str) -> None:
        """End the stream with an error: nothing after it is read."""
        self.failed = True
        self.exchange.outcome = outcome
        self.exchange.error = error

    def _ended(self) -> bool:
        return self.done or self.failed

    def _token_source(self) -> str | None:
        if self._source in (CONTINUOUS, IDS):
            return self._source
        if (self.exchange.usage or {}).get("completion_tokens"):  # some servers send a 0 that stays 0
            return "usage"
        return CHUNKS if self.exchange.arrival_ns else None

    def _read_event(self, stamp_ns: int, event: bytes) -> None:
        self.events += 1
        if event == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode(event)
        except BAD_JSON as error:
            self.fail("malformed", f"{error}: {event[:200].decode(errors='replace')}")
            return
        usage = chunk.usage
        if usage is not None:
            self._usage = usage
        if chunk.error is not None:
            self.fail(*error_outcome(chunk.error))
            return
        if chunk.choices:
            self._read_choice(stamp_ns, chunk.choices[0], None if usage is None else usage.completion_tokens)
        if chunk.metrics is not None:
            self.exchange.server_timings = chunk.metrics
        if chunk.system_fingerprint is not None:
            self.exchange.fingerprint = chunk.system_fingerprint

    def _read_choice(self, stamp_ns: int, choice: _Choice, count: int | None) -> None:
        delta = choice.delta
        if delta is not None:
            content = delta.content or ""
            reasoning = delta.reasoning or delta.reasoning_content or ""
        else:
            content, reasoning = choice.text or "", ""
        # The usual case is written out here, which saves a function call for each token.
        if count is not None and self._source == CONTINUOUS:
            tokens = max(0, count - self.token_count)
        else:
            tokens = self._count_tokens(choice, count, content or reasoning)
        if tokens:
            exchange = self.exchange
            self.token_count += tokens
            exchange.arrival_ns.append(stamp_ns)
            exchange.tokens.append(tokens)
            exchange.pieces.append((reasoning, content))
            if choice.token_ids is not None or exchange.token_ids is not None:
                self._keep_ids(choice.token_ids or [])
            if reasoning:
                self._has_reasoning = True
            elif content and self._has_reasoning and exchange.first_answer_ns is None:
                exchange.first_answer_ns = stamp_ns
        elif content or reasoning:
            self._append_text(reasoning, content)
        if choice.finish_reason is not None:
            self.exchange.finish_reason = choice.finish_reason
            self.exchange.stop_reason = choice.stop_reason

    def _count_tokens(self, choice: _Choice, count: int | None, text: str) -> int:
        """Return the number of tokens in this chunk. The first chunk with any decides where the counts come from."""
        source = self._source
        if source is None:
            if not (text or choice.token_ids or count):
                return 0
            self._source = source = CONTINUOUS if count else IDS if choice.token_ids else CHUNKS
            if source == CONTINUOUS:
                return count or 0
        if source == IDS:
            return len(choice.token_ids or ())
        # Chunks without usage in a stream with continuous usage count one token until the next count corrects it.
        return 1 if text else 0

    def _keep_ids(self, ids: list[int]) -> None:
        exchange = self.exchange
        if exchange.token_ids is None:
            exchange.token_ids = [[] for _ in exchange.tokens[1:]]
        exchange.token_ids.append(ids)

    def _append_text(self, reasoning: str, content: str) -> None:
        """Add text that came without a token, such as text held back for stop strings, to the event before it."""
        pieces = self.exchange.pieces
        if pieces:
            pieces[-1] = (pieces[-1][0] + reasoning, pieces[-1][1] + content)


def error_outcome(error: Any) -> tuple[Outcome, str]:
    """Return outcome and text of the `error` in a server's JSON, which is an object or a string."""
    if not isinstance(error, dict):
        return "server_error", str(error)
    code = error.get("code")
    text = str(error.get("message") or error)
    outcome: Outcome = "rate_limited" if str(code) in ("429", "rate_limit_exceeded") else "server_error"
    return outcome, text if code is None else f"{text} (code {code})"


def _is_complete(event: bytes) -> bool:
    """Return whether the last event, which lacks its final newline, was sent completely."""
    if event == b"[DONE]":
        return True
    try:
        msgspec.json.decode(event)
    except BAD_JSON:
        return False
    return True
