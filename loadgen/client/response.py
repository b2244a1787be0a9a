"""Reads one HTTP response: removes the HTTP framing, decodes the events and decides the outcome.

Reads are kept with their timestamps and are parsed later, in the client's work queue. Only a read that may contain the end of
the response is parsed soon. The first thing that goes wrong is the outcome, and it is set once.

This module does not know which connection the bytes come from, nor when the request was due.
"""

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter_ns

import httptools

from loadgen.client.error_text import clip, compression, not_a_stream, refusal_text
from loadgen.client.token_stream import MAX_EVENT_BYTES, TokenStream
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Exchange, Outcome

READS_PER_BATCH = 64
"""Pieces of the body that are decoded in one step, which takes about 0.1 ms."""
EVENT_AND_CHUNK_END = b"\n\n\r\n"
"""A read with this ending ends with a whole event in a whole HTTP chunk. It need not be parsed at once."""
HEAD_END, LAST_CHUNK = b"\r\n\r\n", b"0\r\n\r\n"
MAX_ERROR_BODY_BYTES = 2**16
"""How much of an error response is read; its message is at the start."""
MAX_HEAD_BYTES = 2**18
"""No server sends a longer head. Without a limit, an endless head, or endless trailers, would fill the memory."""
BLANK = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first character of JSON: a byte order mark, and the blank lines of a server that waits."""
MAX_TIMEOUT_DIGITS = 9
DONE_GRACE_S = 1.0
"""A server that has sent [DONE] has this long to end the response before the client ends it."""


class ResponseReader:
    """The response to one request: the reads of its connection, the callbacks of the HTTP parser, and its end."""

    def __init__(self, exchange: Exchange, work_queue: WorkQueue, on_tokens: Callable[[int], None] | None) -> None:
        self.exchange = exchange
        self.stream = TokenStream(exchange)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finished = False
        """The outcome is final. `ended` alone cannot tell, because a cancelled task cancels it."""
        self.reusable = False
        """The HTTP message is complete and the connection may carry another request."""
        self.reads: list[tuple[int, bytes]] = []
        """(timestamp, bytes) of each read that has not been parsed."""
        self.is_chunked_stream = False
        """The response seems to be a stream in HTTP chunks, whose end can be recognized without parsing."""
        self._bodies: list[tuple[int, bytes]] = []
        """(timestamp, bytes) of each part of the body that has not been decoded."""
        self._work_queue = work_queue
        self._on_tokens = on_tokens
        self._stamp_ns = 0
        self._body_parts: list[bytes] = []
        self.on_body = self._body_parts.append
        """Parser callback that needs no Python frame: it is called once for every event."""
        self._parser = httptools.HttpResponseParser(self)
        self._reported_tokens = 0
        self._parse_scheduled = False
        self._head_bytes = 0
        self._message_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        """A body that is not an event stream: the start of an error response, or a whole answer in JSON."""
        self._body_ns = 0
        """Timestamp of the last part of the body of a whole answer."""
        self._is_json: bool | None = None
        """The body of a successful response is JSON and no event stream; None before its first byte."""
        self._grace_timer: asyncio.TimerHandle | None = None

    def parse_soon(self, data: bytes) -> None:
        """Schedule the parsing of the last read, `data`, except where it is only the head of a stream."""
        if data.endswith((EVENT_AND_CHUNK_END, HEAD_END)) and not data.endswith(LAST_CHUNK) and begins_stream(data):
            self.is_chunked_stream = True
        elif not self._parse_scheduled:
            self._parse_scheduled = True
            self._work_queue.call_soon(self._parse_and_decode)

    def decode_steps(self) -> Iterator[None]:
        """Decode what was read, one batch in each step."""
        if not self.finished:
            self._parse()
        while self._bodies and not self.finished:
            self._decode(READS_PER_BATCH)
            self._end_if_stream_ended()
            yield

    def connection_lost(self, error: Exception | None) -> None:
        """End the response: the connection is lost (`error`), or the server has closed its side of it (None)."""
        self._parse()
        if self.finished:
            return
        if self.unanswered():
            cause = f"the server closed the idle connection as the request was sent: {error or 'no answer'}"
            self.fail("reset", cause)
        elif self.exchange.headers_ns is None:
            self.fail("reset", f"connection lost before the response: {error or 'closed by the server'}")
        elif error is not None:
            self.fail("reset", f"connection lost: {error}")
        elif self._ends_with_connection():
            self._end()
        else:
            self.fail("cut", "the server closed the connection inside the response")

    def unanswered(self) -> bool:
        """Return whether no byte has come on a connection that was open already: the server may have closed it before."""
        return self.exchange.reused and self.exchange.headers_ns is None and self._stamp_ns == 0

    def idle_limit_s(self) -> float | None:
        """Return how long the server keeps an idle connection open, where it says so."""
        for part in self._headers.get(b"keep-alive", b"").split(b","):
            name, _, value = part.strip().partition(b"=")
            if name.lower() == b"timeout" and value.isdigit() and len(value) < MAX_TIMEOUT_DIGITS:
                return float(value)
        return None

    def fail(self, outcome: Outcome, error: str) -> None:
        """End the response now with `outcome`, unless it was complete. What was measured is kept."""
        self._parse()
        if self.finished:
            return
        self._decode()
        exchange = self.exchange
        if exchange.outcome == "ok" and not (self.stream.complete() and self.stream.done):
            exchange.outcome = outcome
            exchange.error = error
        self._end()

    def result(self) -> Exchange:
        """Decode what is left and return the Exchange. This may be called once, after the response has ended."""
        del self._parser  # the parser refers to this object, and only the garbage collector could free the cycle
        exchange = self.exchange
        self._decode()
        body = bytes(self._body)
        is_lost = exchange.outcome != "ok"
        is_answer = bool(self._is_json) and not is_lost and self.stream.read_answer(self._body_ns, body)
        self.stream.finish(self._stamp_ns)
        self._report_tokens()
        if exchange.outcome not in ("ok", "cut") or (is_lost and self._is_json):
            return exchange
        if not self._is_success():
            exchange.outcome = refusal(exchange.status or 0)
            exchange.error = refusal_text(body, self._headers)
        elif body and not (is_answer or self.stream.events):
            exchange.outcome, exchange.error = not_a_stream(body, self._headers)
        return exchange

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header under its name in lower case."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Take status and content encoding from the headers."""
        status = self._parser.get_status_code()
        if status < 200:  # informational: the response follows
            self._headers.clear()
            return
        self.exchange.status = status
        self.exchange.headers_ns = self._stamp_ns
        if (encoding := compression(self._headers)) and self._is_success():
            self.stream.fail("malformed", clip(f"content-encoding {encoding} was not asked for"))
        self.is_chunked_stream = self._is_chunked() and self._is_success()

    def on_message_complete(self) -> None:
        """Note that the response is complete, and whether the connection stays open."""
        if self.exchange.headers_ns is not None:
            self._message_complete = True
            self.reusable = self._parser.should_keep_alive()

    def _parse_and_decode(self) -> None:
        self._parse_scheduled = False
        self._parse()
        if not self.finished:
            self._decode()
            self._end_if_stream_ended()

    def _end_if_stream_ended(self) -> None:
        """End the response when its stream has failed or said [DONE], even if the HTTP message goes on."""
        self._report_tokens()
        if self.stream.failed:
            self._end()
        elif self.stream.done and not self.finished and self._grace_timer is None:
            self._grace_timer = asyncio.get_running_loop().call_later(DONE_GRACE_S, self._end)

    def _parse(self) -> None:
        """Remove the HTTP framing from what was read."""
        reads, self.reads = self.reads, []
        for stamp_ns, data in reads:
            if self.finished:
                return
            self._stamp_ns = stamp_ns
            failure: tuple[Outcome, str] | None = None
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self.exchange.status = 101
                failure = "http_error", "the server switches to another protocol"
            except httptools.HttpParserError as error:
                failure = "malformed", f"not an HTTP response: {str(error) or type(error).__name__}"
            if self._body_parts:
                self._bodies.append((stamp_ns, b"".join(self._body_parts)))
                self._body_parts.clear()
                self._head_bytes = 0
            else:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    failure = "malformed", f"more than {MAX_HEAD_BYTES} bytes of headers"
            if failure is not None:
                self.fail(*failure)
            elif self._message_complete:
                self._end(stamp_ns)

    def _decode(self, pieces: int | None = None) -> None:
        """Decode the events of the next `pieces` parts of the body, or of all."""
        bodies, self._bodies = self._bodies[:pieces], self._bodies[pieces:] if pieces else []
        if not bodies:
            return
        if self._is_success() and self._is_json is None:
            self._is_json = next((start in b"{[" for _, body in bodies if (start := body.lstrip(BLANK)[:1])), None)
        limit = MAX_EVENT_BYTES if self._is_json else MAX_ERROR_BODY_BYTES
        if not self.stream.events:  # a body that is no event stream is an error text or an answer in JSON
            self._body_ns = bodies[-1][0]
            for _, body in bodies:
                if len(self._body) <= limit:
                    self._body += body
        if self._is_success() and not self._is_json:
            self.stream.feed(bodies)
        elif len(self._body) > limit:
            if self._is_json:
                self._body.clear()
                self.stream.fail("malformed", f"an answer of more than {limit} bytes")
            else:
                self._end()

    def _report_tokens(self) -> None:
        if self._on_tokens is not None and self.stream.token_count > self._reported_tokens:
            self._on_tokens(self.stream.token_count - self._reported_tokens)
            self._reported_tokens = self.stream.token_count

    def _end(self, at_ns: int | None = None) -> None:
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if not self.finished:
            self.finished = True
            self.exchange.end_ns = at_ns or perf_counter_ns()
            if not self.ended.done():
                self.ended.set_result(None)

    def _is_chunked(self) -> bool:
        return b"chunked" in self._headers.get(b"transfer-encoding", b"").lower()

    def _ends_with_connection(self) -> bool:
        """A body without a length ends where the connection does (HTTP/1.0)."""
        return b"content-length" not in self._headers and not self._is_chunked()

    def _is_success(self) -> bool:
        return self.exchange.status is None or self.exchange.status // 100 == 2


def begins_stream(data: bytes) -> bool:
    """Return whether a first read contains the head of a stream in HTTP chunks."""
    return data.startswith(b"HTTP/1.1 200") and b"\r\ntransfer-encoding: chunked\r\n" in data.lower()


def refusal(status: int) -> Outcome:
    """Return the outcome of a response whose status is an error."""
    if status == 429:
        return "rate_limited"
    return "server_error" if status >= 500 else "http_error"
