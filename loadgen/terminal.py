"""Text for people: what comes from outside is made harmless, and a terminal or a pipe that goes away ends no run.

Messages for people go to stderr; stdout is for programs. A message is one line, whatever the server or a file put into it. This
module does not know what is printed.
"""

import os
import signal
import sys
import unicodedata
from typing import Any, TextIO, cast


def say(text: str) -> None:
    """Print a message to stderr as one line, without control characters."""
    print(f"loadgen: {printable(text)}", file=sys.stderr)


def printable(text: str, limit: int | None = None) -> str:
    r"""Return `text` with every character that could control a terminal or start a line as an escape such as `\x1b`.

    With a `limit`, white space becomes single spaces, and the rest of a longer text is left out.
    """
    if limit is not None:  # the text may have megabytes, of which only the beginning is needed
        text = " ".join(text[: 16 * limit].split())
    if not text.isprintable():
        text = "".join(
            character
            if character.isprintable() or unicodedata.category(character) == "Zs"
            else character.encode("unicode_escape").decode()
            for character in text
        )
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def latency_text(seconds: float) -> str:
    """Return a latency with three digits: in milliseconds below a second, otherwise in seconds."""
    value, unit = (seconds * 1e3, "ms") if seconds < 1 else (seconds, "s")
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def duration_text(seconds: float) -> str:
    """Return a duration in whole seconds, minutes or tenths of an hour."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class LastingStream:
    """A text stream whose reader may close it or disappear: what cannot be written any more is dropped without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._drop_from_now_on()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop_from_now_on()

    def _drop_from_now_on(self) -> None:
        """Replace the file behind the stream, because the interpreter flushes the stream once more when it ends."""
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except (OSError, ValueError):
            self._stream = _nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123  It stays open until the process ends.


def outlast_terminal() -> None:
    """From now on, neither a closed stdout or stderr nor the end of the terminal ends this process or raises an error.

    A descriptor below 3 that is closed is opened, because the next file that is opened would get its number, and messages
    would be written into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout = cast("TextIO", LastingStream(sys.stdout or _nowhere()))
    sys.stderr = cast("TextIO", LastingStream(sys.stderr or _nowhere()))
