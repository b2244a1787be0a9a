"""The search finds limits that are known from queueing theory, and those of servers that change or break."""

import pytest

from tests.fixtures.known_limits import KINDS, searched, waits
from tests.fixtures.queues import (
    Server,
    exponential,
    fixed,
    limit_rate,
    limit_streams,
    waits_closed,
    waits_md1,
    waits_mmc,
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_found_within_one_stream_or_five_percent(kind: str, seed: int) -> None:
    """`python -m benchmarks.capacity_search` does the same with 20 seeds."""
    assert searched(kind, seed).right


def test_the_formulas_agree_with_published_values() -> None:
    """M/M/c and M/D/1 from tables of queueing theory; 12 streams on 8 slots wait for 4 completions: P(Poisson(8) ≥ 4)."""
    assert limit_rate(lambda rate: waits_mmc(8, rate, 0.5), 0.95, 8) == pytest.approx(5.217, abs=5e-4)
    assert limit_rate(lambda rate: waits_mmc(32, rate, 0.5), 0.95, 32) == pytest.approx(28.022, abs=5e-4)
    assert waits_md1(0.8, 5.0) == pytest.approx(0.8995, abs=5e-5)
    assert waits_closed(8, 12, 1.0) == pytest.approx(0.9576, abs=5e-5)
    assert limit_streams(lambda streams: waits_closed(8, streams, 1.0), 0.95) == 12


@pytest.mark.parametrize(
    ("server", "share"),
    [
        (Server(8, exponential()), lambda rate: waits_mmc(8, rate, 0.5)),
        (Server(1, fixed(1 / 8)), lambda rate: waits_md1(rate, 0.5, 1 / 8)),
    ],
    ids=["exponential", "fixed"],
)
def test_the_simulated_queue_agrees_with_the_formulas(server: Server, share: object) -> None:
    records = server.open_loop(6.0, 60_000, seed=3)
    assert waits(records, 0.5) == pytest.approx(share(6.0), abs=0.015)  # type: ignore[operator]


def test_the_simulated_closed_loop_agrees_with_the_formula() -> None:
    records = Server(8, exponential()).closed_loop(12, 40_000, seed=3)
    assert waits(records, 1.0) == pytest.approx(waits_closed(8, 12, 1.0), abs=0.01)
