"""Computes before the run when each request is due.

Times are model seconds from the start of the load. They are absolute and depend only on the options and the seed. An arrival
process is a sequence of arrivals at rate 1 that is mapped through the inverse of the cumulated rate. In this way every process
can follow a rate that changes in steps, and none drifts.

This module does not know what is sent or how late a request was sent (see `Record.send_lag_s`).
"""

import math
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice, repeat, takewhile
from pathlib import Path

WARMUP_CONCURRENCY = 16
"""Number of warm-up requests that are in flight at the same time."""
MOST_REQUESTS = 10_000_000
"""Of an open loop, whose due times are all in memory."""


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests are due at these times, whatever the server does."""

    times_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A request is due when one of `concurrency` slots becomes free."""

    concurrency: int


Schedule = OpenLoop | ClosedLoop


@dataclass(frozen=True, slots=True)
class RateStep:
    """A rate in requests per second and how long it lasts. The last step can last forever."""

    rate: float
    seconds: float = math.inf


def arrivals(
    kind: str, rate: Sequence[RateStep], *, seed: int, requests: int | None = None, duration_s: float | None = None
) -> OpenLoop:
    """Return the due times of `requests` requests, or of those due before `duration_s` or the end of the last step.

    `kind` is `constant`, `poisson`, `gamma:B` (B is the shape of the gamma distribution: 1 is Poisson, smaller is burstier),
    `burst` (all are due at once) or `burst:N` (N are due together, at the given mean rate), as `option_types.arrival` accepts it.
    Raises ValueError where nothing limits the requests, or where there are more than MOST_REQUESTS.
    """
    end_s = min(duration_s or math.inf, sum(step.seconds for step in rate))
    if requests is None and math.isinf(end_s):
        raise ValueError("an open loop needs a number of requests or a duration")
    if kind == "burst":
        if requests is None:
            raise ValueError("burst without a group size needs a number of requests")
        times: Iterator[float] = repeat(0.0)
    else:
        unit_arrivals = _unit_arrivals(kind, random.Random(seed))
        times = takewhile(lambda time_s: time_s < end_s, _at_rate(unit_arrivals, rate))
    due_s = array("d", islice(times, min(requests or MOST_REQUESTS + 1, MOST_REQUESTS + 1)))
    if len(due_s) > MOST_REQUESTS:
        raise ValueError(f"it has more than {MOST_REQUESTS:,} requests: give a lower number, rate or duration")
    return OpenLoop(due_s)


def replay(path: Path) -> OpenLoop:
    """Read due times in seconds from a file, one per line, counted from the earliest. Raises ValueError with file and line."""
    times = sorted(_numbers(path))
    if not times:
        raise ValueError(f"{path}: contains no time")
    return OpenLoop(array("d", (time_s - times[0] for time_s in times)))


def split(schedule: Schedule, worker: int, workers: int) -> Schedule:
    """Return the part of the schedule for one of `workers` processes. Request i goes to worker i mod `workers`."""
    if isinstance(schedule, OpenLoop):
        return OpenLoop(schedule.times_s[worker::workers])
    whole, rest = divmod(schedule.concurrency, workers)
    return ClosedLoop(whole + (worker < rest))


def _numbers(path: Path) -> Iterator[float]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # a character that is not UTF-8 is no number
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            time_s = float(word)
        except ValueError:
            time_s = math.nan
        if not abs(time_s) < 1e15:
            raise ValueError(f"{path}:{number}: {word!r} is not a number of seconds")
        yield time_s


def _unit_arrivals(kind: str, rng: random.Random) -> Iterator[float]:
    """Yield the arrivals of a process with mean rate 1. A constant process begins at 0."""
    name, _, parameter = kind.partition(":")
    if name == "constant":
        return map(float, count())
    if name == "poisson":
        return accumulate(rng.expovariate(1.0) for _ in count())
    if name == "gamma":
        shape = float(parameter)
        return accumulate(rng.gammavariate(shape, 1 / shape) for _ in count())
    size = int(parameter)
    return (float(index // size * size) for index in count())


def _at_rate(unit_arrivals: Iterable[float], rate: Sequence[RateStep]) -> Iterator[float]:
    """Map arrivals at rate 1 to times at a rate that changes in steps. The last rate continues after its step."""
    steps = iter(rate)
    step = next(steps)
    start_s, start_units = 0.0, 0.0
    for unit in unit_arrivals:
        while unit - start_units >= step.rate * step.seconds and (following := next(steps, None)):
            start_units += step.rate * step.seconds
            start_s += step.seconds
            step = following
        yield start_s + (unit - start_units) / step.rate
