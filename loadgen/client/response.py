"""Reads one HTTP response: removes the HTTP framing, decodes the events and decides the outcome.

Reads are kept with their timestamps and are parsed later, in the client's work queue. Only a read that may contain the end of
the response is parsed soon. The first thing that goes wrong is the outcome, and it is set once.

This module does not know which connection the bytes come from, nor when the request was due.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter_ns

import httptools
import msgspec

from loadgen.client.token_stream import BAD_JSON, TokenStream, error_outcome
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Exchange, Outcome

READS_PER_BATCH = 64
"""Pieces of the body that are decoded in one step, which takes about 0.1 ms."""
EVENT_AND_CHUNK_END = b"\n\n\r\n"
"""A read with this ending ends with a whole event in a whole HTTP chunk. It need not be parsed at once."""
HEAD_END, LAST_CHUNK = b"\r\n\r\n", b"0\r\n\r\n"
MAX_ERROR_BODY_BYTES = 2**16
"""How much of an error response is kept; its message is at the start."""
MAX_HEAD_BYTES = 2**20
"""No server sends a longer head. Without a limit, an endless head would fill the memory."""
DONE_GRACE_S = 1.0
"""A server that has sent [DONE] has this long to end the response before the client ends it."""


class ResponseReader:
    """The response to one request: the reads of its connection, the callbacks of the HTTP parser, and its end."""

    def __init__(
        self, exchange: Exchange, work_queue: WorkQueue, on_tokens: Callable[[int], None] | None
    ) -> None:
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
        self._body_start: list[bytes] = []
        """The start of a body that is not an event stream: it holds the message of an error."""
        self._decompressor: zlib._Decompress | None = None
        self._grace_timer: asyncio.TimerHandle | None = None

    def parse_soon(self, data: bytes) -> None:
        """Schedule the parsing of the last read, `data`, except where it is only the head of a stream."""
        if (
            data.endswith((EVENT_AND_CHUNK_END, HEAD_END))
            and not data.endswith(LAST_CHUNK)
            and begins_stream(data)
        ):
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
        if self.exchange.headers_ns is None:
            self.fail("reset", f"connection lost before the response: {error or 'closed by the server'}")
        elif error is not None:
            self.fail("reset", f"connection lost: {error}")
        elif self._ends_with_connection():
            self._end()
        else:
            self.fail("cut", "the server closed the connection inside the response")

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
        del (
            self._parser
        )  # the parser refers to this object, and only the garbage collector could free the cycle
        exchange = self.exchange
        self._decode()
        self.stream.finish(self._stamp_ns)
        self._report_tokens()
        if exchange.outcome not in ("ok", "cut"):
            return exchange
        if not self._is_success():
            exchange.outcome = "rate_limited" if exchange.status == 429 else "http_error"
            exchange.error = error_text(self._start_of_body(), self._headers)
        elif self._body_start and not self.stream.events:
            exchange.outcome, exchange.error = not_a_stream(self._start_of_body(), self._headers)
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
        encoding = self._headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._decompressor = zlib.decompressobj(wbits=47)
        elif encoding not in (b"identity", b""):
            text = encoding.decode(errors="replace")
            self.stream.fail("malformed", f"content-encoding {text} was not asked for")
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
            elif self.exchange.headers_ns is None:
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
        error = None
        if self._decompressor is not None:
            bodies, error = decompressed(self._decompressor, bodies)
        for _, body in bodies:
            if self._body_start and self._is_success():
                break
            self._keep_start(body)
        if self._is_success():
            self.stream.feed(bodies)
        if error is not None:
            self.stream.fail("malformed", f"bad gzip: {error}")

    def _keep_start(self, body: bytes) -> None:
        if sum(map(len, self._body_start)) < MAX_ERROR_BODY_BYTES:
            self._body_start.append(body)

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

    def _start_of_body(self) -> bytes:
        return b"".join(self._body_start)[:MAX_ERROR_BODY_BYTES]


def begins_stream(data: bytes) -> bool:
    """Return whether a first read contains the head of a stream in HTTP chunks."""
    return data.startswith(b"HTTP/1.1 200") and b"\r\ntransfer-encoding: chunked\r\n" in data.lower()


def decompressed(
    decompressor: "zlib._Decompress", bodies: list[tuple[int, bytes]]
) -> tuple[list[tuple[int, bytes]], zlib.error | None]:
    """Return the decompressed bodies up to the first error, and that error."""
    plain = []
    for stamp_ns, body in bodies:
        try:
            plain.append((stamp_ns, decompressor.decompress(body)))
        except zlib.error as error:
            return plain, error
    return plain, None


def error_text(body: bytes, headers: Mapping[bytes, bytes]) -> str:
    """Return the error of a refused request: the message in the JSON, or the start of the text; and where a redirect leads."""
    text = ""
    if b"location" in headers:
        text = f"redirected to {_text(headers[b'location'])}; give that as the target. "
    if b"retry-after" in headers:
        text += f"retry after {_text(headers[b'retry-after'])}. "
    return (text + (_error_message(body) or _text(body[:200]))).strip() or "no body"


def not_a_stream(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[Outcome, str]:
    """Return outcome and error text of a successful response without events."""
    if (message := _error_message(body)) is not None:
        return "server_error", message
    kind = _text(headers.get(b"content-type", b"no content type"))
    return "malformed", f"not an event stream but {kind}: {_text(body[:200])}"


def _error_message(body: bytes) -> str | None:
    """Return the error message of a JSON body, in any of the forms that servers use; None where there is none."""
    try:
        content = msgspec.json.decode(body)
    except BAD_JSON:
        return None
    if not isinstance(content, dict):
        return None
    for key in ("error", "detail", "message"):
        if content.get(key):
            return error_outcome(content[key])[1]
    return None


def _text(value: bytes) -> str:
    return value.decode(errors="replace").strip()
