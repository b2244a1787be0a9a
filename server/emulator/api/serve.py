"""Starts and stops one emulated server.

Rules: SIGTERM and SIGINT let requests in progress end for DRAIN_S seconds; the exit status is 0, or 1 after a failure of
the engine. This module does not know routes or the engine.
"""

import asyncio
import contextlib
import gc
import signal
import sys
from functools import partial
from typing import Any

from server.config import ConfigError
from server.emulator.api.app import EmulatorApp, EmulatorSettings
from server.emulator.api.faults import FaultInjector
from server.emulator.api.http import HttpConnection
from server.emulator.text.problems import KnownProblem

DRAIN_S = 6.0
"""Longest wait for requests in progress after SIGTERM, in seconds; measured on vLLM."""
EXIT_DELAY_S = 0.5
"""Seconds between a failure of the engine and the exit of the server, during which `/health` reports it."""


async def _serve(
    settings: EmulatorSettings, problems: list[KnownProblem], faults: FaultInjector, host: str, port: int
) -> int:
    loop = asyncio.get_running_loop()
    app = EmulatorApp(settings, problems, faults)
    if faults.slow_start_s:
        await asyncio.sleep(faults.slow_start_s)
    connections: set[HttpConnection] = set()
    try:
        server = await loop.create_server(lambda: HttpConnection(app.handle, connections), host, port, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}: choose another --port (0: any free one)"
        ) from error
    bound = server.sockets[0].getsockname()[1]
    stop: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end, 0)

    app.generations.on_engine_failure = partial(loop.call_later, EXIT_DELAY_S, end, 1)
    tp, speculation = settings.serving.tensor_parallel_size, settings.serving.speculation
    acceptance = f", acceptance {speculation.described()['acceptance']}" if speculation else ""
    print(
        f"emulated vLLM {settings.version.release}: {app.generations.names[0]} on {tp} x {settings.gpu.name}, {settings.serving.name}{acceptance}, "
        f"speed {settings.speed:g}, at http://{host}:{bound}/v1",
        file=sys.stderr,
        flush=True,
    )
    gc.collect()
    gc.freeze()  # objects made at start-up stay alive; excluding them keeps garbage collections short
    code = await stop
    server.close()
    deadline = loop.time() + DRAIN_S
    while len(app.generations) and loop.time() < deadline:  # noqa: ASYNC110 - happens once at the end; an event would cost time in every request
        await asyncio.sleep(0.02)
    for connection in list(connections):
        connection.close()
    app.realtime.close()
    await asyncio.sleep(0.01)
    return code


def serve(settings: EmulatorSettings, problems: list[KnownProblem], faults: FaultInjector, host: str, port: int) -> int:
    """Serve until a signal or a failure; returns the exit status. Raises ConfigError if the port cannot be used."""
    runner: Any = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - not available on Windows

        runner = uvloop.run
    code: int = runner(_serve(settings, problems, faults, host, port))
    return code
