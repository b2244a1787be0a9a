"""Recognizes the start-up phases of a server in its growing log, for progress messages.

The patterns are log lines of vLLM 0.26 to 0.33 and of the emulator. This module does not know how the server was started.
"""

import re
from collections.abc import Iterator

PHASES = (
    (r"Initializing a V1 LLM engine", "engine starting"),
    (r"Starting to load model (\S+?)\.\.\.", "loading {0}"),  # V1 model runner
    (r"Loading model from scratch\.\.\.", "loading the model"),  # V2 model runner
    (r"[Ll]oading [^:]+:\s+(\d+)% Completed", "loading weights: {0} %"),
    (r"Model loading took ([\d.]+) GiB(?: memory)? and (\d+\.\d{1,2})\d* seconds", "weights loaded: {0} GiB in {1} s"),
    # 0.26 has no line at the start of a compilation. Dynamo is its first part.
    (r"Starting torch\.compile|Dynamo bytecode transform time", "compiling"),
    (r"Directly load AOT compilation from path", "compiled graphs loaded from the cache"),
    (r"torch\.compile took ([\d.]+) s in total", "compiled in {0} s"),
    (r"GPU KV cache size: ([\d,]+) tokens", "KV cache: {0} tokens"),
    (r"Capturing CUDA graphs", "capturing CUDA graphs"),
    (r"Graph capturing finished in (\d+) secs", "CUDA graphs captured in {0} s"),
    (r"(?:Application startup complete|Uvicorn running)", "HTTP server up"),
)  # fmt: skip
"""For each phase, the pattern of its log line and the message ({0}, {1}: the groups of the pattern)."""


class StartupPhases:
    """Reads the log as it grows and reports each phase once, when its line first appears.

    With tensor parallelism every worker writes the lines of loading and compiling; the first one is reported.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._read_chars = 0

    def new_phases(self, log: str) -> Iterator[str]:
        """Messages for the phases in the new part of `log`. An incomplete last line is read by a later call."""
        end = log.rfind("\n") + 1
        new, self._read_chars = log[self._read_chars : end], max(end, self._read_chars)
        for line in re.split(r"[\r\n]", new):
            for pattern, text in PHASES:
                if match := re.search(pattern, line):
                    message = text.format(*match.groups())
                    if (phase := message if "%" in text else pattern) not in self._reported:
                        self._reported.add(phase)
                        yield message
