"""Starting and stopping one emulated server."""

import asyncio
import contextlib
import gc
import signal
import sys
from typing import Any

from server.config import ConfigError
from server.emulator.api.app import EmulatorApp, EmulatorSettings
from server.emulator.api.faults import Faults
from server.emulator.api.http import HttpConnection

DRAIN_S = 6.0
"""How long SIGTERM waits for streams under way: what vLLM took with one."""
DEATH_S = 0.5
"""Between the engine's death and the server's exit: time for /health to say so."""


async def _serve(
    setting: EmulatorSettings, problems: list[dict[str, Any]], faults: Faults, host: str, port: int
) -> int:
    loop = asyncio.get_running_loop()
    app = EmulatorApp(setting, problems, faults)
    if faults.slow_start_s:
        await asyncio.sleep(faults.slow_start_s)
    connections: set[HttpConnection] = set()
    try:
        server = await loop.create_server(
            lambda: HttpConnection(app.handle, connections), host, port, backlog=2048
        )
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

    def die() -> None:
        loop.call_later(DEATH_S, end, 1)

    app.generations.on_death = die
    tp = setting.serving.tensor_parallel_size
    print(
        f"emulated vLLM {setting.version.release}: {app.generations.names[0]} on {tp} x {setting.gpu.name}, {setting.serving.name}, "
        f"speed {setting.speed:g}, at http://{host}:{bound}/v1",
        file=sys.stderr,
        flush=True,
    )
    gc.collect()
    gc.freeze()  # what start-up made is never garbage: collections stay short while streams run
    code = await stop
    server.close()
    deadline = loop.time() + DRAIN_S
    while len(app.generations) and loop.time() < deadline:  # noqa: ASYNC110 - once, at the end; an event would cost every request
        await asyncio.sleep(0.02)
    for connection in list(connections):
        connection.close()
    app.driver.close()
    await asyncio.sleep(0.01)
    return code


def serve(
    setting: EmulatorSettings, problems: list[dict[str, Any]], faults: Faults, host: str, port: int
) -> int:
    """Serve until told to stop; the exit status."""
    runner: Any = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - not on Windows

        runner = uvloop.run
    code: int = runner(_serve(setting, problems, faults, host, port))
    return code
