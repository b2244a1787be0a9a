"""What the requests of a run decide."""

import math

import pytest

from loadgen.measure.dependence import kind_of
from loadgen.option_types import LoadPoint
from loadgen.record import Record
from loadgen.search import probes
from loadgen.search.bracket import Step
from loadgen.search.decision import Evidence
from tests.fixtures.queues import Server, exponential, limit_rate, waits_mmc

SLO = {"ttft": 0.5, "tpot": 0.1}
ALONE = {"kind": "closed", "concurrency": 1}


def record(seq: int, **more: object) -> Record:
    """Return a good answer of one second, sent `seq` seconds after the first one."""
    fields: dict[str, object] = {
        "run_id": "r", "seq": seq, "problem_id": "p", "budget": 64, "due_s": float(seq), "sent_s": float(seq),
        "end_s": seq + 0.9, "ttft_s": 0.1, "tpot_s": 0.01, "e2e_s": 0.9, "outcome": "ok", "completion_tokens": 9,
    }  # fmt: skip
    return Record(**(fields | more))  # type: ignore[arg-type]


def evidence(records: list[Record], load: dict[str, object] | None = None) -> Evidence:
    found = Evidence(kind_of(load or ALONE))
    found.add(records, load or ALONE, SLO)
    return found


def test_the_requests_of_the_first_generation_do_not_count() -> None:
    """Three streams: what was sent before the first answer ended, and until all of that had ended, is the ramp."""
    sent_s = [0.0, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0]
    rows = [record(seq, sent_s=at_s, end_s=at_s + 0.95) for seq, at_s in enumerate(sent_s)]
    assert len(evidence(rows, {"kind": "closed", "concurrency": 3}).good) == 2


def test_failures_and_missed_objectives_are_not_good_and_are_named() -> None:
    rows = [record(seq) for seq in range(10)]
    rows[3] = record(3, outcome="server_error", e2e_s=None, ttft_s=None)
    rows[4] = record(4, ttft_s=0.6)
    rows[5] = record(5, ttft_s=0.6, tpot_s=0.2)
    rows[6] = record(6, ttft_s=None)
    found = evidence(rows)
    assert found.good == [True, True, False, False, False, False, True, True, True]
    assert found.causes == {"ttft": 3, "errors": 1, "tpot": 1}
    assert found.cause() == "ttft"
    assert found.ratios[2:4] == [math.inf, 1.2]


def test_requests_that_were_never_sent_are_failures() -> None:
    rows = [record(seq, sent_s=None, end_s=None, e2e_s=None, outcome="refused") for seq in range(30)]
    found = evidence(rows)
    assert (found.share, found.cause(), found.decide(0.95)) == (0.0, "errors", "fail")


@pytest.mark.parametrize(("requests", "decision"), [(95, "undecided"), (96, "pass")])
def test_the_first_look_uses_half_of_the_permitted_error(requests: int, decision: str) -> None:
    """Wilson's lower bound of n good of n is n / (n + z²): 0.95 needs 19 z² = 95.5 with z = 2.2414, the 98.75 % quantile."""
    assert evidence([record(seq) for seq in range(requests + 1)]).decide(0.95) == decision


def test_a_later_look_needs_more() -> None:
    """The second look has a sixth of the permitted error: z = 2.6383, so 133 requests."""
    found = evidence([record(seq) for seq in range(67)])
    found.add([record(seq) for seq in range(67)], ALONE, SLO)
    assert (len(found.good), found.decide(0.95)) == (132, "undecided")
    found.good.append(True)
    found.ratios.append(0.2)
    assert found.decide(0.95) == "pass"


def test_a_saturated_server_fails_although_its_answers_are_still_good() -> None:
    """12 requests/s to a server that serves 8, with objectives that its queue has not broken yet."""
    records = Server(8, exponential()).open_loop(12.0, 300, seed=1)
    found = Evidence("open")
    found.add(records, {"kind": "open", "rate": 12.0, "arrival": "poisson"}, {"e2e": 1000.0})
    assert (found.share, found.decide(0.95), found.cause()) == (1.0, "fail", "saturation")


def test_few_requests_of_an_open_loop_cannot_pass() -> None:
    """A run that happened to see no slow period looks independent."""
    records = Server(8, exponential()).open_loop(2.0, 390, seed=1)
    found = Evidence("open")
    found.add(records, {"kind": "open", "rate": 2.0, "arrival": "poisson"}, {"ttft": 5.0})
    assert (found.share, found.decide(0.95)) == (1.0, "undecided")


def test_slow_variation_far_below_the_objectives_does_not_withhold_a_pass() -> None:
    """Latencies that double for 50 requests at a time, at a tenth of the objective."""
    load = {"kind": "closed", "concurrency": 2}
    slow = evidence([record(seq, ttft_s=0.05 * (1 + seq // 50 % 2)) for seq in range(400)], load)
    near = evidence([record(seq, ttft_s=0.24 * (1 + seq // 50 % 2)) for seq in range(400)], load)
    assert (slow.decide(0.95), near.decide(0.95)) == ("pass", "undecided")


def test_a_steady_closed_loop_passes_just_below_its_objective() -> None:
    """Equal requests of 48 streams end together at first, and slowly spread: the mean TPOT rises and the highest one falls."""
    tpot_s = [
        0.097 + 0.0012 * generation / 30 + 0.002 * (1 - place / 48) * (1 - generation / 60)
        for generation in range(30)
        for place in range(48)
    ]
    found = evidence(
        [record(seq, tpot_s=value) for seq, value in enumerate(tpot_s)], {"kind": "closed", "concurrency": 48}
    )
    assert 0.099 < max(tpot_s) < SLO["tpot"]
    assert found.decide(0.95) == "pass"


@pytest.mark.parametrize(("variation", "decision"), [(0.002, "pass"), (0.05, "undecided")])
def test_an_open_loop_passes_where_its_objective_is_far_away_for_its_variation(variation: float, decision: str) -> None:
    """A TPOT of 80 % of the objective, with one slow period in the run."""
    rows = [record(seq, tpot_s=0.08 * (1 + variation * math.sin(2 * math.pi * seq / 1000))) for seq in range(1000)]
    assert evidence(rows, {"kind": "open"}).decide(0.95) == decision


def test_a_queue_before_many_slots_seldom_passes_wrongly() -> None:
    """Of 40 tests at a rate with 93 % good requests, at most 5 % pass. The queue is empty most of the time, and then long."""
    rate = limit_rate(lambda rate: waits_mmc(32, rate, 0.5), 0.93, 32)
    seeds, load = iter(range(10_000)), {"kind": "open", "rate": rate, "arrival": "poisson"}

    def send(_point: LoadPoint, _number: int, requests: int) -> probes.Sent:
        return probes.Sent("", load, Server(32, exponential()).open_loop(rate, requests, next(seeds)), 1.0)

    passed = sum(
        probes.Tester("rate", {"ttft": 0.5}, 0.95, send).test(Step(rate)).decision == "pass" for _ in range(40)
    )
    assert passed <= 2


def test_no_request_decides_nothing() -> None:
    found = evidence([])
    assert (found.share, found.decide(0.95), found.cause(), found.mean_e2e_s) == (0.0, "undecided", None, None)
