"""When requests are due: computed before the run, absolute, seeded.

Rules: pure; no clock, no waiting. Times are model seconds from the start of the load. An arrival process is a sequence
of unit-rate arrivals mapped through the inverse of the cumulated rate, so every process can be ramped and none drifts.

Does not know: what is sent, nor how late a request was (`run` and `Record.send_lag_s` do).
"""

import math
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice, takewhile
from pathlib import Path

WARMUP_STREAMS = 16


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Open loop: requests are due at these times, whatever the server does."""

    times_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Closed loop: a request is due when one of `concurrency` slots becomes free."""

    concurrency: int


Schedule = OpenLoop | ClosedLoop


@dataclass(frozen=True, slots=True)
class RateStep:
    """One step of a ramp: a rate, and for how long. The last may last for ever."""

    rate: float
    seconds: float = math.inf


def arrivals(
    kind: str,
    rate: Sequence[RateStep],
    *,
    seed: int,
    requests: int | None = None,
    duration_s: float | None = None,
) -> OpenLoop:
    """Due times of `requests` requests, or of those due before `duration_s` or the ramp's end, whichever is first.

    `kind`: `constant`, `poisson`, `gamma:B` (B = burstiness, 1 is Poisson, smaller is burstier), `burst` (all due at
    once) or `burst:N` (groups of N due together, at the mean rate). Raises ValueError for any other.
    """
    end_s = min(duration_s or math.inf, sum(step.seconds for step in rate))
    if requests is None and math.isinf(end_s):
        raise ValueError("an open loop needs a number of requests or a duration")
    if kind == "burst":
        if requests is None:
            raise ValueError("burst without a group size needs a number of requests")
        return OpenLoop(array("d", [0.0] * requests))
    units = _unit_arrivals(kind, random.Random(seed))
    times = takewhile(lambda time_s: time_s < end_s, _at_rate(units, rate))
    return OpenLoop(array("d", islice(times, requests)))


def parse_rate(text: str) -> tuple[RateStep, ...]:
    """`4` (per second), or a ramp in steps `1:30,4:30,8` (rate:seconds). Raises ValueError."""
    steps = []
    parts = text.split(",")
    for index, part in enumerate(parts):
        rate, _, seconds = part.partition(":")
        step = RateStep(float(rate), float(seconds) if seconds else math.inf)
        if not (0 < step.rate < math.inf and step.seconds > 0):
            raise ValueError(f"{part}: a rate and its seconds are above 0")
        if math.isinf(step.seconds) and index < len(parts) - 1:
            raise ValueError(f"{part}: every step but the last needs its seconds, as in {part}:30")
        steps.append(step)
    return tuple(steps)


def replay(path: Path) -> OpenLoop:
    """Due times from a file: seconds, one number a line, counted from the first. Raises ValueError naming file:line."""
    times = sorted(_numbers(path))
    if not times:
        raise ValueError(f"{path}: holds no time")
    return OpenLoop(array("d", (time_s - times[0] for time_s in times)))


def split(schedule: Schedule, worker: int, workers: int) -> Schedule:
    """The part of `schedule` that belongs to one of `workers`; request i goes to worker i mod workers."""
    if isinstance(schedule, OpenLoop):
        return OpenLoop(schedule.times_s[worker::workers])
    whole, rest = divmod(schedule.concurrency, workers)
    return ClosedLoop(whole + (worker < rest))


def _numbers(path: Path) -> Iterator[float]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            time_s = float(text)
        except ValueError:
            raise ValueError(f"{path}:{number}: {text!r} is no number of seconds") from None
        if not math.isfinite(time_s):
            raise ValueError(f"{path}:{number}: {text!r} is no time")
        yield time_s


def _unit_arrivals(kind: str, rng: random.Random) -> Iterator[float]:
    """Arrivals of a process with mean rate 1, the first of a constant one at 0."""
    name, _, parameter = kind.partition(":")
    if name == "constant" and not parameter:
        return map(float, count())
    if name == "poisson" and not parameter:
        return accumulate(rng.expovariate(1.0) for _ in count())
    if name == "gamma" and (shape := _positive(kind, parameter)):
        return accumulate(rng.gammavariate(shape, 1 / shape) for _ in count())
    if name == "burst" and (size := int(_positive(kind, parameter))):
        return (float(index // size * size) for index in count())
    raise ValueError(f"{kind}: arrivals are constant, poisson, gamma:B, burst or burst:N")


def _positive(kind: str, parameter: str) -> float:
    try:
        value = float(parameter)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{kind}: {kind.partition(':')[0]} needs a number above 0 after the colon")
    return value


def _at_rate(units: Iterable[float], rate: Sequence[RateStep]) -> Iterator[float]:
    """Map unit-rate arrivals to times under a rate of steps; the last rate goes on after its step."""
    steps = iter(rate)
    step = next(steps)
    start_s, start_units = 0.0, 0.0
    for unit in units:
        while unit - start_units >= step.rate * step.seconds and (following := next(steps, None)):
            start_units += step.rate * step.seconds
            start_s += step.seconds
            step = following
        yield start_s + (unit - start_units) / step.rate
