"""Work that can wait is done in order and in slices, and sockets are read between two slices."""

import asyncio
from collections.abc import Iterator
from time import perf_counter_ns

from loadgen.client.work_queue import MAX_QUEUED, SLICE_NS, WorkQueue


def steps(name: str, count: int, done: list[str]) -> Iterator[None]:
    for step in range(count):
        done.append(f"{name}{step}")
        yield


def test_urgent_work_runs_before_other_work() -> None:
    done: list[str] = []

    async def work() -> None:
        work_queue = WorkQueue()
        work_queue.add_steps(steps("a", 2, done))
        work_queue.add_steps(steps("b", 1, done))
        work_queue.call_soon(lambda: done.append("end"))
        await asyncio.sleep(0.01)

    asyncio.run(work())
    assert done == ["end", "a0", "a1", "b0"]


def test_urgent_work_waits_when_too_much_other_work_waits() -> None:
    """Otherwise a client at its limit would accumulate every response that it has read."""
    done: list[str] = []

    async def work() -> None:
        work_queue = WorkQueue()
        for _ in range(MAX_QUEUED):
            work_queue.add_steps(steps("a", 1, done))
        work_queue.call_soon(lambda: done.append("end"))
        work_queue.finish()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: done.append(str(context)))
        await asyncio.sleep(0.01)  # the slice that was scheduled finds nothing left

    asyncio.run(work())
    assert done.index("end") == 1
    assert len(done) == MAX_QUEUED + 1


def test_sockets_are_read_between_two_slices() -> None:
    """Each of ten steps takes a whole slice. A callback scheduled meanwhile runs between them and not after them."""
    done: list[str] = []

    def busy() -> Iterator[None]:
        for step in range(10):
            until_ns = perf_counter_ns() + SLICE_NS
            while perf_counter_ns() < until_ns:
                pass
            done.append(str(step))
            yield

    async def work() -> None:
        work_queue = WorkQueue()
        work_queue.add_steps(busy())
        await asyncio.sleep(0)
        done.append("socket")
        work_queue.finish()

    asyncio.run(work())
    assert "socket" in done[:-1]
    assert [step for step in done if step != "socket"] == [str(step) for step in range(10)]


def test_work_that_raises_does_not_stop_the_rest() -> None:
    done: list[str] = []

    async def work() -> None:
        work_queue = WorkQueue()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: done.append(str(context["exception"])))
        work_queue.call_soon(lambda: done.remove("nothing"))
        work_queue.call_soon(lambda: done.append("next"))
        await asyncio.sleep(0.01)

    asyncio.run(work())
    assert done == ["list.remove(x): x not in list", "next"]
