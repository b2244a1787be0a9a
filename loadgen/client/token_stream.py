"""Events of one answer → token events, text and ending of its Exchange.

Rules: no I/O, no clock: every event comes with the stamp of the read that brought it. A token event is a chunk whose
completion-token count grew; a role chunk is none; `reasoning` and `reasoning_content` both are. Counts come from
`continuous_usage_stats`, else `token_ids`, else the final usage, else the chunks with text: `token_source` says which.
What the server did wrong becomes the Exchange's outcome, never an exception.

Does not know: sockets, HTTP, when the request was due.
"""

from typing import Any

import msgspec

from loadgen.client.sse import SSEDecoder
from loadgen.exchange import Exchange
from loadgen.record import Outcome

BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, no UTF-8, or nested without end."""
LINE_LIMIT_BYTES = 64 * 2**20
"""A longer line is no event of any server: without a limit an endless one would fill the memory."""


CONTINUOUS, IDS, CHUNKS = "continuous_usage", "token_ids", "chunks"


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
    """Reads one answer's events into `exchange`."""

    __slots__ = (
        "_mode",
        "_sse",
        "_thought",
        "_usage",
        "counted",
        "done",
        "events",
        "exchange",
        "failed",
    )

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.done = False
        """`[DONE]` was read."""
        self.failed = False
        """The server said or sent something that ends the request; the outcome says what."""
        self._sse = SSEDecoder()
        self._mode: str | None = None
        self.counted = 0
        """Tokens of the token events so far."""
        self.events = 0
        self._usage: _Usage | None = None
        """The last that came."""
        self._thought = False

    def feed(self, reads: list[tuple[int, bytes]]) -> None:
        """Take pieces of the body in order, each with the stamp of its read."""
        if self._over():
            return
        for stamp_ns, event in self._sse.stamped(reads):
            self._event(stamp_ns, event)
            if self.done or self.failed:
                return
        if self._sse.pending_bytes() > LINE_LIMIT_BYTES:
            self.fail("malformed", f"a line of more than {LINE_LIMIT_BYTES} bytes")

    def finish(self, stamp_ns: int) -> None:
        """The body has ended, whole or not: settle the outcome and the counts."""
        exchange = self.exchange
        for event in self._sse.close():
            if not self._over() and _whole(event):
                self._event(stamp_ns, event)
        if self._usage is not None:
            given = msgspec.structs.asdict(self._usage)
            exchange.usage = {name: value for name, value in given.items() if value is not None}
        exchange.token_source = self._source()
        if self.failed or exchange.outcome != "ok":
            return
        if exchange.finish_reason is None:
            exchange.outcome = "cut"
            exchange.error = (
                "[DONE] without a finish_reason" if self.done else "the stream ended without a finish_reason"
            )

    def complete(self) -> bool:
        """The answer is whole, however the connection ends."""
        return self.exchange.finish_reason is not None and not self.failed

    def fail(self, outcome: Outcome, error: str) -> None:
        """The answer is of no use from here on."""
        self.failed = True
        self.exchange.outcome = outcome
        self.exchange.error = error

    def _over(self) -> bool:
        return self.done or self.failed

    def _source(self) -> str | None:
        if self._mode in (CONTINUOUS, IDS):
            return self._mode
        if (self.exchange.usage or {}).get("completion_tokens"):  # some servers send a 0 that stays 0
            return "usage"
        return CHUNKS if self.exchange.arrival_ns else None

    def _event(self, stamp_ns: int, event: bytes) -> None:
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
            self.fail(*said_error(chunk.error))
            return
        if chunk.choices:
            self._choice(stamp_ns, chunk.choices[0], None if usage is None else usage.completion_tokens)
        if chunk.metrics is not None:
            self.exchange.server_timings = chunk.metrics
        if chunk.system_fingerprint is not None:
            self.exchange.fingerprint = chunk.system_fingerprint

    def _choice(self, stamp_ns: int, choice: _Choice, count: int | None) -> None:
        delta = choice.delta
        if delta is not None:
            content = delta.content or ""
            reasoning = delta.reasoning or delta.reasoning_content or ""
        else:
            content, reasoning = choice.text or "", ""
        if count is not None and self._mode == CONTINUOUS:  # nearly always: spares a call a token
            tokens = max(0, count - self.counted)
        else:
            tokens = self._tokens(choice, count, content or reasoning)
        if tokens:
            exchange = self.exchange
            self.counted += tokens
            exchange.arrival_ns.append(stamp_ns)
            exchange.tokens.append(tokens)
            exchange.pieces.append((reasoning, content))
            if choice.token_ids is not None or exchange.token_ids is not None:
                self._keep_ids(choice.token_ids or [])
            if reasoning:
                self._thought = True
            elif content and self._thought and exchange.first_answer_ns is None:
                exchange.first_answer_ns = stamp_ns
        elif content or reasoning:
            self._more_text(reasoning, content)
        if choice.finish_reason is not None:
            self.exchange.finish_reason = choice.finish_reason
            self.exchange.stop_reason = choice.stop_reason

    def _tokens(self, choice: _Choice, count: int | None, text: str) -> int:
        """Tokens that this chunk brought. The first chunk that brings any settles where counts come from."""
        mode = self._mode
        if mode is None:
            if not (text or choice.token_ids or count):
                return 0
            self._mode = mode = CONTINUOUS if count else IDS if choice.token_ids else CHUNKS
            if mode == CONTINUOUS:
                return count or 0
        if mode == IDS:
            return len(choice.token_ids or ())
        return (
            1 if text else 0
        )  # continuous, but without usage here: one token until the next count corrects it

    def _keep_ids(self, ids: list[int]) -> None:
        exchange = self.exchange
        if exchange.token_ids is None:
            exchange.token_ids = [[] for _ in exchange.tokens[1:]]
        exchange.token_ids.append(ids)

    def _more_text(self, reasoning: str, content: str) -> None:
        """Text that came without a token (held back before, as by stop strings) belongs to the event before it."""
        pieces = self.exchange.pieces
        if pieces:
            pieces[-1] = (pieces[-1][0] + reasoning, pieces[-1][1] + content)


def said_error(error: Any) -> tuple[Outcome, str]:
    """Outcome and text of the `error` in a server's JSON, object or string."""
    if not isinstance(error, dict):
        return "server_error", str(error)
    code = error.get("code")
    text = str(error.get("message") or error)
    outcome: Outcome = "rate_limited" if str(code) in ("429", "rate_limit_exceeded") else "server_error"
    return outcome, text if code is None else f"{text} (code {code})"


def _whole(event: bytes) -> bool:
    """The last event was cut off after its data: telling a torn one from a malformed one."""
    if event == b"[DONE]":
        return True
    try:
        msgspec.json.decode(event)
    except BAD_JSON:
        return False
    return True
