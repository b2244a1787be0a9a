"""Converts clock stamps to the time of a run, in model seconds.

Stamps are nanoseconds of `time.perf_counter_ns`. An emulated server can run faster than real time; model seconds are seconds
of that server's time, so that its results can be compared with those of a real server.

This module does not read a clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunClock:
    """The time of a run, which begins at `start_ns`. `scale` model seconds pass in one real second."""

    start_ns: int
    scale: float = 1.0

    def at_s(self, ns: int | None) -> float | None:
        """Return the model seconds from the start of the run to a stamp, or None where there is no stamp."""
        return self.between_s(self.start_ns, ns)

    def between_s(self, since_ns: int | None, until_ns: int | None) -> float | None:
        """Return the model seconds between two stamps, or None where one of them is missing."""
        if since_ns is None or until_ns is None:
            return None
        return round((until_ns - since_ns) * self.scale / 1e9, 9)
