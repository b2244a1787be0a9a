"""TODO docstring."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunClock:
    """A run's time: model seconds since `start_ns`, where `scale` model seconds pass in a real one."""

    start_ns: int
    scale: float = 1.0

    def at_s(self, ns: int | None) -> float | None:
        """Model seconds from the run's start to a stamp."""
        return None if ns is None else round((ns - self.start_ns) * self.scale / 1e9, 9)

    def between_s(self, since_ns: int | None, until_ns: int | None) -> float | None:
        """Model seconds between two stamps, where both were taken."""
        if since_ns is None or until_ns is None:
            return None
        return round((until_ns - since_ns) * self.scale / 1e9, 9)
