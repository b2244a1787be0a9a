"""The generator's own state is measured, not assumed."""

import asyncio
import gc
import time

import uvloop

from loadgen.measure.client_health import ClientHealth, HealthReport, merge


def watch(busy_s: float, pause_s: float = 0.0, seen: list[float] | None = None) -> HealthReport:
    async def work() -> HealthReport:
        health = ClientHealth(None if seen is None else seen.append)
        health.start()
        for _ in range(5):
            end = time.process_time() + busy_s
            while time.process_time() < end:
                pass
            await asyncio.sleep(pause_s)
        gc.collect()
        return health.stop()

    return uvloop.run(work())


def test_a_blocked_loop_shows_as_lag_and_cpu() -> None:
    """Five times 50 ms of work without a break: the loop is late by tens of ms and the core is busy."""
    summary = watch(0.05, 0.001).summary()
    assert summary["loop_lag_max_s"] > 0.02
    assert summary["cpu_s"] >= 0.25
    assert summary["cpu_share"] == summary["cpu_s"] / summary["wall_s"] > 0
    assert summary["gc_pauses"] >= 1
    assert summary["rss_max_mb"] > 1
    assert 3 <= summary["open_files_max"] <= summary["open_files_limit"]


def test_an_idle_loop_uses_no_cpu_and_every_lag_is_told() -> None:
    seen: list[float] = []
    report = watch(0, 0.1, seen)
    assert report.cpu_share < 0.5
    assert report.loop_lags_s == seen
    assert len(seen) > 5


def test_merged_workers_keep_every_lag_and_the_busiest_core() -> None:
    one, two = watch(0, 0.01), watch(0.02)
    both = merge([one, two])
    assert sorted(both.loop_lags_s) == sorted(one.loop_lags_s + two.loop_lags_s)
    assert both.cpu_share == max(one.cpu_share, two.cpu_share)
    assert both.workers == 2
