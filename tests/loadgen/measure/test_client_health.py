"""The health of the client process is measured."""

import asyncio
import gc
import time

import uvloop

from loadgen.measure.client_health import ClientHealth, HealthReport, merge


def measure(busy_s: float, pause_s: float = 0.0, reported: list[float] | None = None) -> HealthReport:
    async def work() -> HealthReport:
        health = ClientHealth(None if reported is None else reported.append)
        health.start()
        for _ in range(5):
            end = time.process_time() + busy_s
            while time.process_time() < end:
                pass
            await asyncio.sleep(pause_s)
        gc.collect()
        return health.stop()

    return uvloop.run(work())


def test_a_blocked_event_loop_has_lag_and_uses_the_cpu() -> None:
    """The loop is blocked five times for 50 ms, so it is late by tens of ms and the core is busy."""
    summary = measure(0.05, 0.001).summary()
    assert summary["loop_lag_max_s"] > 0.02
    assert summary["cpu_s"] >= 0.25
    assert summary["cpu_share"] == summary["cpu_s"] / summary["wall_s"] > 0
    assert summary["gc_pauses"] >= 1
    assert summary["rss_max_mb"] > 1
    assert 3 <= summary["open_files_max"] <= summary["open_files_limit"]


def test_an_idle_event_loop_uses_little_cpu_and_every_lag_is_reported() -> None:
    reported: list[float] = []
    report = measure(0, 0.1, reported)
    assert report.cpu_share < 0.5
    assert report.loop_lags_s == reported
    assert len(reported) > 5


def test_a_merged_report_has_every_lag_and_the_busiest_core() -> None:
    one, two = measure(0, 0.01), measure(0.02)
    both = merge([one, two])
    assert sorted(both.loop_lags_s) == sorted(one.loop_lags_s + two.loop_lags_s)
    assert both.cpu_share == max(one.cpu_share, two.cpu_share)
    assert both.workers == 2
