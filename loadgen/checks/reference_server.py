"""A server whose every answer keeps a fixed timetable: what a client should measure is known beforehand.

`http://127.0.0.1:PORT/<case>/v1` is a target. CASES have the truth of each metric beside them, worked by hand;
`paced-N-G` streams N one-token events G ms apart after the first at G ms, `apart-N-G` the same a part of G later, so that
streams are out of step and each event wakes the client by itself; `burst-N` sends all N at once. Runs in a process of
its own (`serving`), so that it does not share the client's interpreter.

Rules: an event is written when its time has come by the clock, counted from the request's last byte; timetables are
rendered once. Speaks as much HTTP as the client needs.

Does not know: models, load, what the client makes of it.
"""

import asyncio
import heapq
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
    b"HTTP/1.1 200 OK\r\nserver: ground-truth\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
PROMPT_TOKENS = 26
GOLDEN = 0.618034
"""Multiples of it, without their whole part, are spread evenly however many there are."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent when (ms after the request), and what is true of it (ms)."""

    events: tuple[tuple[float, bytes], ...]
    truth: dict[str, float] = field(default_factory=dict)


def chunk(delta: dict[str, str], tokens: int | None, finish: str | None = None) -> bytes:
    """One event of a chat stream as vLLM writes it; `tokens` so far, None where usage is not asked for."""
    body: dict[str, Any] = {
        "id": "chatcmpl-8018ffae731979fe",
        "object": "chat.completion.chunk",
        "created": 1795306932,
        "model": "ground-truth",
        "choices": [
            {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
        ],
    }
    if tokens is not None:
        body["usage"] = usage(tokens)
    return event(body)


def usage(tokens: int) -> dict[str, Any]:
    """A usage object."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + tokens,
        "completion_tokens": tokens,
    }


def event(body: dict[str, Any]) -> bytes:
    """One SSE event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def tail(tokens: int | None, metrics: dict[str, float] | None = None) -> bytes:
    """What comes after the last token: the final usage, where there is one, and [DONE]."""
    if tokens is None:
        return DONE
    final: dict[str, Any] = {"id": "chatcmpl-8018ffae731979fe", "choices": [], "usage": usage(tokens)}
    if metrics is not None:
        final["metrics"] = metrics
    return event(final) + DONE


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
    """One token in the first chunk, `per_chunk` in each later one; `keys` share the chunks evenly, in order."""
    role = chunk({"role": "assistant", "content": ""}, 0 if counted else None)
    events = [(first_ms if role_ms is None else role_ms, role)]
    tokens = 0
    for index in range(chunks):
        tokens += per_chunk if index else 1
        key = keys[index * len(keys) // chunks]
        finish = "stop" if index == chunks - 1 else None
        events.append(
            (first_ms + gap_ms * index, chunk({key: " token"}, tokens if counted else None, finish))
        )
    events.append((events[-1][0] + tail_ms, tail(tokens if counted else None, metrics)))
    return tuple(events)


def truth(ttft: float, per_token: float, e2e: float, **more: float) -> dict[str, float]:
    """Truth of a stream whose tokens are evenly spaced."""
    spaced = {
        "ttft_s": ttft,
        "tpot_s": per_token,
        "itl_s": per_token,
        "inter_chunk_s": per_token,
        "e2e_s": e2e,
    }
    return spaced | {"stream_end_s": e2e} | more


QUEUED = {
    "queue_time_ms": 200.0,
    "time_to_first_token_ms": 100.0,
    "generation_time_ms": 320.0,
    "mean_itl_ms": 5.0,
}
CASES = {
    "plain": Case(timetable(), truth(100, 5, 420)),
    "spec": Case(timetable(gap_ms=20, chunks=17, per_chunk=4), truth(100, 5, 420, inter_chunk_s=20)),
    "tail": Case(timetable(tail_ms=200), truth(100, 5, 420, stream_end_s=620)),
    "reasoning": Case(
        timetable(gap_ms=10, chunks=40, keys=("reasoning", "content")), truth(100, 10, 490, ttfot_s=300)
    ),
    "reasoning_content": Case(
        timetable(gap_ms=10, chunks=40, keys=("reasoning_content", "content")),
        truth(100, 10, 490, ttfot_s=300),
    ),
    "no-usage": Case(timetable(counted=False), truth(100, 5, 420)),
    "early-role": Case(timetable(role_ms=10), truth(100, 5, 420)),
    "queued": Case(timetable(first_ms=300, metrics=QUEUED), truth(300, 5, 620)),
}
"""The cases of the published comparison (docs/truth.md), and queueing inside the server."""


@cache
def case(name: str) -> Case | None:
    """A case by its name."""
    if paced := re.fullmatch(r"(?:paced|apart)-(\d+)-(\d+(?:\.\d+)?)", name):
        gap_ms = float(paced[2])
        return Case(timetable(first_ms=gap_ms, gap_ms=gap_ms, chunks=int(paced[1])))
    if burst := re.fullmatch(r"burst-(\d+)", name):
        return Case(timetable(first_ms=0, gap_ms=0, chunks=int(burst[1])))
    return CASES.get(name)


@cache
def frames(name: str) -> tuple[tuple[int, bytes], ...] | None:
    """A case as HTTP chunks: (ns after the request, bytes). Events of a burst stay writes of their own."""
    found = case(name)
    if found is None:
        return None
    chunks = [(round(at_ms * 1e6), b"%x\r\n%s\r\n" % (len(data), data)) for at_ms, data in found.events]
    at_ns, last = chunks.pop()
    return (*chunks, (at_ns, last + b"0\r\n\r\n"))


class _Timetables:
    """Everything that is still to be written, and the alarm for the next of it."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, _Connection]] = []
        self._order = count()
        self._timer = Timer(self._ring)
        self._streams = 0

    def phase_ns(self, gap_ns: int, now_ns: int) -> int:
        """How long to wait for a place of one's own in a gap that all streams share."""
        self._streams += 1
        return (round(self._streams * GOLDEN % 1 * gap_ns) - now_ns) % gap_ns

    def add(self, at_ns: int, connection: "_Connection") -> None:
        """`connection` writes at `at_ns`."""
        heapq.heappush(self._due, (at_ns, next(self._order), connection))
        if self._due[0][2] is connection:
            self._timer.set(at_ns)

    def _ring(self) -> None:
        due = self._due
        while due and due[0][0] <= perf_counter_ns():
            at_ns, order, connection = due[0]
            later_ns = connection.write_due(at_ns)
            if later_ns is None:
                heapq.heappop(due)
            else:
                heapq.heapreplace(due, (later_ns, order, connection))
        if due:
            self._timer.set(due[0][0])


class _Connection(asyncio.Protocol):
    """Reads requests, writes their timetables."""

    def __init__(self, timetables: _Timetables) -> None:
        self._timetables = timetables
        self._read = b""
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._start_ns = 0
        self._left: Iterator[tuple[int, bytes]] = iter(())
        self._next = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._fd = plain_fd(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the protocol's signature
        self._transport = None

    def data_received(self, data: bytes) -> None:
        now_ns = perf_counter_ns()
        self._read += data
        head, blank, body = self._read.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not blank or len(body) < int(length[1] if length else 0):
            return
        self._read = b""
        self._start_ns = now_ns
        # After every other request of this moment has its stamp: an answer takes 20 us, and 64 would queue for 1 ms.
        asyncio.get_running_loop().call_soon(self._answer, head.split(b" ", 2)[1].decode())

    def write_due(self, at_ns: int) -> int | None:
        """Write what was due at `at_ns`; when the next is due."""
        if self._transport is None:
            return None
        write_now(self._transport, self._fd, self._next)
        offset_ns, self._next = next(self._left, (-1, b""))
        return None if offset_ns < 0 else max(at_ns, self._start_ns + offset_ns)

    def _answer(self, path: str) -> None:
        name = path.split("/")[1]
        plan = frames(name)
        transport = self._transport
        if transport is None:
            return
        if plan is None:
            body = json.dumps({"error": {"message": f"no case {path}", "code": 404}}).encode()
            transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            return
        write_now(transport, self._fd, HEAD)
        self._left = iter(plan)
        offset_ns, self._next = next(self._left)
        if name.startswith("apart"):
            self._start_ns += self._timetables.phase_ns(offset_ns, self._start_ns)
        self._timetables.add(self._start_ns + offset_ns, self)


@contextmanager
def serving(*, apart: bool = False) -> Iterator[str]:
    """The server in a process of its own; gives its URL without the case.

    `apart`: on a core of its own, if there are two. Left to itself Linux now and then wakes the server on the core that the
    client is busy on, where it waits for the next tick: up to 3 ms of lateness that is neither's (docs/truth.md).
    """
    with (
        subprocess.Popen(
            [sys.executable, "-m", "loadgen.checks.reference_server"],
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
    """One core for `pid`, the others for this process."""
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


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    timetables = _Timetables()
    server = await loop.create_server(lambda: _Connection(timetables), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started this one


if __name__ == "__main__":
    uvloop.run(_serve())
