"""Start a server → wait until it is ready → hand out its endpoint → stop it, nothing left behind.

Three backends, one behaviour: `emulator` (our own server as a subprocess), `process` (`vllm serve` on this machine) and
`docker`. A server is *ready* when `/health` answers and one token was generated. Whatever ends the launcher, `kill -9`
included, ends its servers: a watchdog process sees the launcher's pipe close, and every server carries labels by which
`python -m server down --all` finds it later.

Does not know: what is sent to the server once it is ready, or what a sweep is.
"""

from server.launch.lifecycle import Launcher, announce, gpu_metrics, launched, start, stop
from server.launch.spec import BACKENDS, Backend, LaunchFailedError, RunningServer, Spec

__all__ = [
    "BACKENDS",
    "Backend",
    "LaunchFailedError",
    "Launcher",
    "RunningServer",
    "Spec",
    "announce",
    "gpu_metrics",
    "launched",
    "start",
    "stop",
]
