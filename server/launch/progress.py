"""Start-up as a person can follow it: phases out of a server's log, each said once. Pure text in, lines out.

Does not know: whether the start succeeds (launch.py asks the server itself).
"""

import re
from collections.abc import Iterator

PHASES = (
    # vLLM's own words (0.26 to 0.33), and ours for the emulator
    (r"Initializing a V1 LLM engine", "engine starting"),
    (r"Starting to load model (\S+?)\.\.\.", "loading {0}"),
    (r"Loading safetensors checkpoint shards:\s+(\d+)% Completed", "loading weights: {0} %"),
    (r"Model loading took ([\d.]+) GiB(?: memory)? and ([\d.]+) seconds", "weights loaded: {0} GiB in {1} s"),
    (r"torch\.compile takes ([\d.]+) s in total", "compiled in {0} s"),
    (r"GPU KV cache size: ([\d,]+) tokens", "KV cache: {0} tokens"),
    (r"(?:Capturing CUDA graphs|Graph capturing finished)", "capturing CUDA graphs"),
    (r"(?:Application startup complete|Uvicorn running)", "HTTP server up"),
)


class Progress:
    """Fed the log as it grows; yields each phase when its line first appears."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._read = 0

    def feed(self, log: str) -> Iterator[str]:
        """New phases in the log's new part. A line still being written is left for the next time."""
        end = log.rfind("\n") + 1
        new, self._read = log[self._read : end], max(end, self._read)
        for line in re.split(r"[\r\n]", new):
            for pattern, text in PHASES:
                if (match := re.search(pattern, line)) and (
                    said := text.format(*match.groups())
                ) not in self._said:
                    self._said.add(said)
                    yield said
