"""What several benchmarks share: their command line, and the full path of a request in this suite.

This module does not know what is measured.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator

from loadgen.client.client import Client
from loadgen.client.endpoint import endpoint_of
from loadgen.client.response import ResponseReader
from loadgen.client.work_queue import WorkQueue
from loadgen.clock import RunClock
from loadgen.exchange import Request
from loadgen.plan.schedule import ClosedLoop
from loadgen.run.dispatch import dispatch


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line whose help is the docstring of the benchmark."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=form)


async def closed_loop(
    url: str,
    planned: Iterable[Request],
    *,
    streams: int,
    clock: RunClock,
    steps: Callable[[Request, int, ResponseReader], Iterator[None]],
    on_tokens: Callable[[Request, int], None] | None = None,
) -> None:
    """Send the requests as a run does. `steps` processes each response, with its due time, when the client has time."""
    work_queue = WorkQueue()
    async with Client(endpoint_of(url), timeout_s=60, on_tokens=on_tokens, work_queue=work_queue) as client:

        async def send(request: Request, due_ns: int) -> None:
            work_queue.add_steps(steps(request, due_ns, await client.call(request)))

        await dispatch(planned, ClosedLoop(streams), send, start_ns=clock.start_ns)
    work_queue.finish()
