"""A server that sends every response on a fixed timetable, so that what a client should measure is known in advance.

`http://127.0.0.1:PORT/<case>/v1` is a target. CASES contain the true value of each metric, calculated by hand. The case
`paced-N-G` streams N events of one token each, G ms apart, the first one after G ms. `apart-N-G` does the same with an
offset for each stream, so that streams are not in step and every event wakes the client separately. `burst-N` sends all N
events at once. The server runs in a process of its own (`serving`), so that it does not share the client's interpreter.

An event is written when its time has come, counted from the last byte of the request. Timetables are rendered once. The
server implements only as much HTTP as the client needs.

This module does not know models, load, or what the client measures.
"""

import asyncio
import heapq
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from time import perf_counter_ns
from typing import Any, cast

import uvloop

from loadgen.client.connection import plain_fd, write_now
from loadgen.client.timer import Timer

HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: thinkload-reference\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
PROMPT_TOKENS = 26
GOLDEN_RATIO = 0.618034
"""The fractional parts of its multiples are spread evenly, however many there are."""


@dataclass(frozen=True, slots=True)
class Case:
    """The events with their times after the request, and the true values of the metrics; all in ms."""

    events: tuple[tuple[float, bytes], ...]
    truth: dict[str, float] = field(default_factory=dict)


def event(choices: list[dict[str, Any]], tokens: int | None, **more: Any) -> bytes:
    """Return one event of a chat stream as vLLM writes it. `tokens` is the count until now; None leaves the usage out."""
    body = {
        "id": "chatcmpl-8018ffae731979fe",
        "object": "chat.completion.chunk",
        "created": 1795306932,
        "model": "reference",
        "choices": choices,
        **more,
    }
    if tokens is not None:
        total = PROMPT_TOKENS + tokens
        body["usage"] = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": tokens}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: dict[str, str], tokens: int | None, finish: str | None = None) -> bytes:
    """Return the event of one chunk."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    return event([choice], tokens)


def timetable(
    *,
    first_ms: float = 100,
    gap_ms: float = 5,
    chunks: int = 65,
    per_chunk: int = 1,
    keys: tuple[str, ...] = ("content",),
    counted: bool = True,
    role_ms: float | None = None,
    tail_ms: float = 0,
    metrics: dict[str, float] | None = None,
) -> tuple[tuple[float, bytes], ...]:
    """Return the events of one stream: one token in the first chunk and `per_chunk` in each later one.

    The chunks are divided evenly between the delta fields in `keys`, in that order.
    """
    role = chunk({"role": "assistant", "content": ""}, 0 if counted else None)
    events = [(first_ms if role_ms is None else role_ms, role)]
    tokens = 0
    for index in range(chunks):
        tokens += per_chunk if index else 1
        key = keys[index * len(keys) // chunks]
        finish = "stop" if index == chunks - 1 else None
        events.append((first_ms + gap_ms * index, chunk({key: " token"}, tokens if counted else None, finish)))
    end = DONE
    if counted:
        timings = {} if metrics is None else {"metrics": metrics}
        end = event([], tokens, **timings) + DONE
    return (*events, (events[-1][0] + tail_ms, end))


def true_values(ttft: float, per_token: float, e2e: float, **others: float) -> dict[str, float]:
    """Return the true values, in ms, for a stream whose tokens are evenly spaced."""
    gaps = dict.fromkeys(("tpot_s", "itl_s", "inter_chunk_s"), per_token)
    return {"ttft_s": ttft, **gaps, "e2e_s": e2e, "stream_end_s": e2e} | others


QUEUED = {"queue_time_ms": 200.0, "time_to_first_token_ms": 100.0, "generation_time_ms": 320.0, "mean_itl_ms": 5.0}
CASES = {
    "plain": Case(timetable(), true_values(100, 5, 420)),
    "spec": Case(timetable(gap_ms=20, chunks=17, per_chunk=4), true_values(100, 5, 420, inter_chunk_s=20)),
    "tail": Case(timetable(tail_ms=200), true_values(100, 5, 420, stream_end_s=620)),
    "reasoning": Case(
        timetable(gap_ms=10, chunks=40, keys=("reasoning", "content")), true_values(100, 10, 490, ttfot_s=300)
    ),
    "reasoning_content": Case(
        timetable(gap_ms=10, chunks=40, keys=("reasoning_content", "content")), true_values(100, 10, 490, ttfot_s=300)
    ),
    "no-usage": Case(timetable(counted=False), true_values(100, 5, 420)),
    "early-role": Case(timetable(role_ms=10), true_values(100, 5, 420)),
    "queued": Case(timetable(first_ms=300, metrics=QUEUED), true_values(300, 5, 620)),
}
"""The cases of the published comparison (docs/truth.md), and a case with a queue in the server."""


@cache
def frames(name: str) -> tuple[tuple[int, bytes], ...] | None:
    """Return a case as HTTP chunks: (ns after the request, bytes); None where there is no such case.

    Each event of a burst is a separate write.
    """
    if paced := re.fullmatch(r"(?:paced|apart)-(\d+)-(\d+(?:\.\d+)?)", name):
        gap_ms = float(paced[2])
        return chunked(timetable(first_ms=gap_ms, gap_ms=gap_ms, chunks=int(paced[1])))
    if burst := re.fullmatch(r"burst-(\d+)", name):
        return chunked(timetable(first_ms=0, gap_ms=0, chunks=int(burst[1])))
    return chunked(CASES[name].events) if name in CASES else None


def chunked(events: Sequence[tuple[float, bytes]], *, ended: bool = True) -> tuple[tuple[int, bytes], ...]:
    """Return writes, each with its time in ms, as HTTP chunks with their times in ns. `ended` adds the last chunk of HTTP."""
    chunks = [(round(at_ms * 1e6), b"%x\r\n%s\r\n" % (len(data), data)) for at_ms, data in events]
    at_ns, last = chunks.pop()
    return (*chunks, (at_ns, last + b"0\r\n\r\n" if ended else last))


class Timetables:
    """The writes that are still due in all streams, and the timer for the next one."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, TimetableConnection]] = []
        self._order = count()
        self._timer = Timer(self._write_due)
        self._streams = 0

    def offset_ns(self, gap_ns: int, now_ns: int) -> int:
        """Return the delay of a new stream, chosen so that the writes of all streams are spread evenly over `gap_ns`."""
        self._streams += 1
        return (round(self._streams * GOLDEN_RATIO % 1 * gap_ns) - now_ns) % gap_ns

    def add(self, at_ns: int, connection: "TimetableConnection") -> None:
        """Make `connection` write at `at_ns`."""
        heapq.heappush(self._due, (at_ns, next(self._order), connection))
        if self._due[0][2] is connection:
            self._timer.set(at_ns)

    def _write_due(self) -> None:
        due = self._due
        while due and due[0][0] <= perf_counter_ns():
            at_ns, order, connection = due[0]
            next_ns = connection.write_due(at_ns)
            if next_ns is None:
                heapq.heappop(due)
            else:
                heapq.heapreplace(due, (next_ns, order, connection))
        if due:
            self._timer.set(due[0][0])


class TimetableConnection(asyncio.Protocol):
    """Reads requests and writes their timetables."""

    def __init__(self, timetables: Timetables) -> None:
        self.transport: asyncio.Transport | None = None
        self._timetables = timetables
        self._received = b""
        self._fd = -1
        self._start_ns = 0
        self._remaining: Iterator[tuple[int, bytes]] = iter(())
        self._next = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self._fd = plain_fd(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the signature of asyncio
        """Write nothing more."""
        self.transport = None

    def data_received(self, data: bytes) -> None:
        """Respond to a request that is complete."""
        now_ns = perf_counter_ns()
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not blank or len(body) < int(length[1] if length else 0):
            return
        self._received = b""
        self._start_ns = now_ns
        # A response takes 20 µs, so 64 of them would take 1 ms: first every request that is ready gets its timestamp.
        method, url, _ = head.decode("latin-1").split(" ", 2)
        asyncio.get_running_loop().call_soon(self.respond, method, url, body)

    def write_due(self, at_ns: int) -> int | None:
        """Write what was due at `at_ns`; return when the next write is due, or None after the last."""
        if self.transport is None:
            return None
        write_now(self.transport, self._fd, self._next)
        offset_ns, self._next = next(self._remaining, (-1, b""))
        return None if offset_ns < 0 else max(at_ns, self._start_ns + offset_ns)

    def respond(self, _method: str, url: str, _body: bytes) -> None:
        """Begin the response to a request."""
        name = url.split("/")[1]
        timetable = frames(name)
        if timetable is not None:
            self.begin(HEAD, timetable, apart=name.startswith("apart"))
        elif self.transport is not None:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\nno case")

    def begin(self, head: bytes, timetable: Sequence[tuple[int, bytes]], *, apart: bool = False) -> None:
        """Write the head, and the timetable when its times have come; with `apart`, not in step with the other streams."""
        if self.transport is None:
            return
        write_now(self.transport, self._fd, head)
        self._remaining = iter(timetable)
        offset_ns, self._next = next(self._remaining)
        if apart:
            self._start_ns += self._timetables.offset_ns(offset_ns, self._start_ns)
        self._timetables.add(self._start_ns + offset_ns, self)


@contextmanager
def serving(*program: str, apart: bool = False) -> Iterator[str]:
    """Run the server, or another program, in a process of its own; yield its URL without the case.

    `apart` gives the server a CPU core of its own, if there are two. Otherwise Linux sometimes wakes the server on the core
    that the client is using, where it waits for the next tick of the scheduler: a delay of up to 3 ms that neither server
    nor client causes (docs/truth.md).
    """
    with (
        subprocess.Popen(
            [sys.executable, "-m", *(program or ["loadgen.checks.reference_server"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        _own_core(process.pid) if apart else nullcontext(),
    ):
        try:
            yield json.loads(cast("Any", process.stdout).readline())["url"]
        finally:
            process.terminate()


@contextmanager
def _own_core(pid: int) -> Iterator[None]:
    """Give one core to `pid` and the others to this process."""
    before = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    if len(before) < 2:
        yield
        return
    own = {max(before)}
    os.sched_setaffinity(pid, own)
    os.sched_setaffinity(0, before - own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def serve(connection: Callable[[Timetables], TimetableConnection] = TimetableConnection) -> None:
    """Serve until the process that started this one ends."""
    loop = asyncio.get_running_loop()
    timetables = Timetables()
    server = await loop.create_server(lambda: connection(timetables), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
