"""Saturation of open loops, on queues whose capacity is known."""

import pytest

from loadgen.measure.saturation import AchievedRate, achieved_rate
from loadgen.measure.steady_window import Span
from loadgen.record import Record
from tests.fixtures.queues import Server, Service, exponential, fixed

POISSON = {"kind": "open", "rate": 8.0, "arrival": "poisson"}


def spans(records: list[Record]) -> list[Span]:
    return [(record.sent_s or 0.0, record.end_s or 0.0, record.outcome == "ok") for record in records]


def rate_of(rate: float, requests: int, seed: int = 0, service: Service | None = None) -> AchievedRate:
    records = Server(8, service or exponential()).open_loop(rate, requests, seed)
    found = achieved_rate(spans(records), POISSON | {"rate": rate})
    assert found is not None
    return found


def test_a_rate_beyond_the_capacity_is_named_with_its_numbers() -> None:
    """Eight slots of one second serve 8 requests/s; 12 are asked."""
    found = rate_of(12.0, 400)
    assert found.saturated
    assert found.achieved_per_s == pytest.approx(8.0, rel=0.1)
    first, last = found.in_flight
    assert last - first > 0.2 * 400
    assert found.reason == (
        f"saturated: 12 requests/s were asked and {found.achieved_per_s:.3g} achieved, and the requests in flight grew from "
        f"{first} to {last} while requests were sent"
    )


@pytest.mark.parametrize("service", [exponential(), fixed()], ids=["exponential", "fixed"])
def test_few_healthy_runs_are_called_saturated(service: Service) -> None:
    """Of 240 runs that keep the server 60, 80 and 90 % busy, at most 1 % (docs/capacity.md has the measured share)."""
    alarms = sum(rate_of(8 * busy, 400, seed, service).saturated for busy in (0.6, 0.8, 0.9) for seed in range(80))
    assert alarms <= 2


@pytest.mark.parametrize("service", [exponential(), fixed()], ids=["exponential", "fixed"])
def test_an_overload_by_half_is_found(service: Service) -> None:
    assert sum(rate_of(12.0, 400, seed, service).saturated for seed in range(20)) >= 19


def test_a_run_that_is_too_short_for_its_replies_is_not_called_saturated() -> None:
    """Sixty requests in 5 s to a server that answers each after 10 s, however many there are."""
    rows = [(index / 12, index / 12 + 10.0, True) for index in range(60)]
    found = achieved_rate(rows, POISSON | {"rate": 12.0, "arrival": "constant"})
    assert found is not None
    assert not found.saturated
    assert found.reason is not None
    assert "the run is too short to show" in found.reason
    assert "60 in flight at the end" in found.reason
    assert "send about 600 requests" in found.reason


def test_a_steady_run_has_no_reason() -> None:
    assert rate_of(4.0, 400).reason is None


@pytest.mark.parametrize(
    "load",
    [
        {"kind": "closed", "concurrency": 8},
        POISSON | {"ramp": [[1.0, 10.0]]},
        POISSON | {"arrival": "burst"},
        POISSON | {"arrival": "replay"},
        POISSON | {"rate": None},
    ],
    ids=str,
)
def test_loads_without_a_single_rate_are_not_judged(load: dict[str, object]) -> None:
    assert achieved_rate(spans(Server(8, exponential()).open_loop(12.0, 400, 0)), load) is None


def test_a_run_without_a_success_is_not_judged() -> None:
    assert achieved_rate([(0.0, 1.0, False)], POISSON) is None
    assert achieved_rate([], POISSON) is None
