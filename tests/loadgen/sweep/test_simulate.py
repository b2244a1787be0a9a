"""Backend `simulate` uses the formulas of the client and the times of the emulator."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.cli import main
from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import to_record
from loadgen.measure.one_pass import derive
from loadgen.record import Record, find_runs, read_records, read_run
from loadgen.sweep.simulated_records import SimulatedReply, cut, record
from tests import ROOT
from tests.fixtures.parallel import made_once

FIELDS = ("ttft_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "completion_tokens", "chunks", "outcome")


def request(budget: int) -> Request:
    return Request(seq=3, problem_id="p", sample=0, budget=budget, budget_mode="cut", path="", body={})


def reply(rng: random.Random) -> SimulatedReply:
    """A reply with chunks of one to six tokens, as speculation produces them."""
    tokens = np.array([rng.choice((1, 1, 1, 2, 6)) for _ in range(rng.randint(1, 60))])
    times = 1.0 + np.cumsum([rng.randint(1, 9000) * 1e-6 for _ in tokens])
    return SimulatedReply(0.5, times, tokens, rng.random() < 0.5, 40, None)


def exchange(reply: SimulatedReply) -> Exchange:
    arrivals = [round(t * 1e9) for t in reply.times_s]
    return Exchange(
        sent_ns=round(reply.sent_s * 1e9),
        end_ns=arrivals[-1],
        arrival_ns=arrivals,
        tokens=reply.tokens.tolist(),
        pieces=[("", "x")] * len(arrivals),
        usage={"prompt_tokens": 40, "completion_tokens": int(reply.tokens.sum())},
        token_source="continuous_usage",
        status=200,
        finish_reason="stop" if reply.stopped else "length",
    )


def assert_same(simulated: Record, measured: Record) -> None:
    for name in (*FIELDS, "finish_reason", "prompt_tokens", "first_token_s", "last_token_s"):
        assert getattr(simulated, name) == pytest.approx(getattr(measured, name), abs=2e-9), name


@pytest.mark.parametrize("seed", range(60))
def test_formulas_are_those_of_the_client(seed: int) -> None:
    """Formulas over arrays give the same values as over lists, for a whole reply and for one that is cut to a budget."""
    rng = random.Random(seed)
    one = reply(rng)
    total = int(one.tokens.sum())
    clock = RunClock(0)
    assert_same(
        record(request(total), one, "r"), to_record(request(total), exchange(one), 500_000_000, clock, run_id="r")
    )
    for budget in {1, total // 2 or 1, max(total - 1, 1), total, total + 1}:
        derived, _ = derive(exchange(one), budget)
        assert_same(
            record(request(budget), cut(one, budget), "r"),
            to_record(request(budget), derived, 500_000_000, clock, run_id="r"),
        )


@pytest.fixture(scope="module")
def run_sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(name: str, *arguments: str) -> Path:
        out = tmp_path_factory.mktemp("sweep") / name
        words = ["sweep", *arguments, "--out", str(out), "--metrics-port", "off"]
        if "simulate" in arguments:
            assert main(words) == 0
            return out
        command = [sys.executable, "-m", "loadgen", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return out

    return run


def test_s1_over_sockets_agrees_too(run_sweep: Callable[..., Path]) -> None:
    """For a model without a reasoning parser, the same fields have values, and the same fields have none."""
    plan = ("--configs", "tp1", "--models", "s1.1-1.5b", "--dataset", "sample", "--problems", "4", "--budgets", "700")
    sockets = run_sweep("s1-sockets", *plan, "--loads", "2", "--backend", "emulator")
    simulated = run_sweep("s1-simulated", *plan, "--loads", "2", "--backend", "simulate")
    cell = "tp1_s1.1-1.5b_c2"
    measured = {row.seq: row for row in read_records(sockets / cell / "records.jsonl")}
    for found in read_records(simulated / cell / "records.jsonl"):
        row = measured[found.seq]
        for name in (
            "problem_id",
            "prompt_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "ttfot_s",
            "finish_reason",
        ):
            assert getattr(found, name) == getattr(row, name), name


def sums(folder: Path) -> dict[str, float]:
    rows = list(read_records(folder / "records.jsonl"))
    assert all(row.outcome == "ok" for row in rows)
    return {
        name: sum(getattr(row, name) or 0 for row in rows)
        for name in ("e2e_s", "tpot_s", "completion_tokens", "ttfot_s")
    }


def test_a_part_of_the_study_over_sockets_agrees(run_sweep: Callable[..., Path]) -> None:
    """Latency, time per token, time to the answer and tokens agree within 2 %, with and without speculation.

    The emulator runs at half speed, which halves the cost of sockets and client in relation to the modeled time.
    """
    plan = ("--configs", "tp1,tp2-ngram", "--models", "r1-distill-qwen-7b", "--dataset", "sample", "--problems", "6")
    load = ("--budgets", "640", "--loads", "3")
    sockets = run_sweep("sockets", *plan, *load, "--backend", "emulator", "--speed", "0.5")
    simulated = run_sweep("simulated", *plan, *load, "--backend", "simulate")
    for cell in ("tp1_r1-distill-qwen-7b_c3", "tp2-ngram_r1-distill-qwen-7b_c3"):
        measured, expected = sums(sockets / cell), sums(simulated / cell)
        assert expected["completion_tokens"] == measured["completion_tokens"]
        assert expected["e2e_s"] == pytest.approx(measured["e2e_s"], rel=0.02)
        assert expected["tpot_s"] == pytest.approx(measured["tpot_s"], rel=0.02)
        assert expected["ttfot_s"] == pytest.approx(measured["ttfot_s"], rel=0.02)


def spec_decode_counters(page: str) -> dict[str, float]:
    """The counters of speculation on a /metrics page, as Prometheus's own parser reads them."""
    return {
        f"{family.name.removeprefix('vllm:spec_decode_')}{sample.labels.get('position', '')}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if family.name.startswith("vllm:spec_decode_") and sample.name.endswith("_total")
    }


def test_a_drafter_is_emulated_over_sockets_and_simulated(run_sweep: Callable[..., Path]) -> None:
    """The run's acceptance is that of the server's own counters and of the curve, and both runs say which curve it is."""
    plan = ("--configs", "tp1-eagle3", "--models", "r1-distill-qwen-7b", "--dataset", "sample")
    load = ("--problems", "12", "--budgets", "256", "--loads", "4", "--axes", '{"draft-tokens": [2]}')
    cell = "tp1-eagle3-k2_r1-distill-qwen-7b_c4"
    sockets = run_sweep("drafter", *plan, *load, "--backend", "emulator", "--speed", "4") / cell
    simulated = run_sweep("drafter-simulated", *plan, *load, "--backend", "simulate") / cell
    for folder in (sockets, simulated):
        run = read_run(folder)
        assert (run.config, run.speculation) == ("tp1-eagle3-k2", "eagle3")
        assert run.server["draft_tokens"] == 2
        assert run.server["acceptance"].startswith("emulated: eagle3-qwen3-8b-math (github.com/vllm-project")
    pages = [(sockets / f"server-{when}.prom").read_text() for when in ("before", "after")]
    before, after = map(spec_decode_counters, pages)
    drafts, first, second = (
        after[name] - before[name]
        for name in ("num_drafts", "num_accepted_tokens_per_pos0", "num_accepted_tokens_per_pos1")
    )
    found = read_run(sockets).summary["speculation"]
    assert found["accepted_at_position"] == [first / drafts, second / drafts]
    assert found["accepted_at_position"] == pytest.approx([0.83, 0.67], abs=0.06)
    assert found["draft_tokens"] == 2 * drafts


def test_first_tokens_over_sockets_arrive_as_simulated(run_sweep: Callable[..., Path]) -> None:
    """The fastest first token agrees within 2 %. Delays of the others come from a busy machine, which is not modeled.

    The emulator runs at a twentieth of its speed, which makes such delays smaller in relation to the modeled time.
    """
    plan = ("--configs", "tp1,tp2-ngram", "--models", "r1-distill-qwen-7b", "--dataset", "sample")
    load = ("--problems", "12", "--budgets", "2", "--loads", "1")
    sockets = run_sweep("first-sockets", *plan, *load, "--backend", "emulator", "--speed", "0.05")
    simulated = run_sweep("first-simulated", *plan, *load, "--backend", "simulate")
    for cell in ("tp1_r1-distill-qwen-7b_c1", "tp2-ngram_r1-distill-qwen-7b_c1"):
        expected_s = {row.seq: row.ttft_s or 0 for row in read_records(simulated / cell / "records.jsonl")}
        rows = list(read_records(sockets / cell / "records.jsonl"))
        late = [(row.ttft_s or 0) / expected_s[row.seq] - 1 for row in rows]
        assert min(late) == pytest.approx(0, abs=0.02)


def typical_ratio(sockets: Path, simulated: Path, name: str) -> float:
    """The median over the requests of measured / simulated.

    A busy machine delays some requests. One that arrives late can join another step of the engine, whose tokens come earlier or
    later than simulated.
    """
    rows = list(read_records(sockets / "records.jsonl"))
    assert all(row.outcome == "ok" for row in rows)
    expected = {row.seq: getattr(row, name) for row in read_records(simulated / "records.jsonl")}
    return median(getattr(row, name) / expected[row.seq] for row in rows)


@pytest.fixture(scope="module")
def open_loops(run_sweep: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three rates, over sockets and simulated.

    The emulator runs at a twentieth of its speed, so that the delays of a busy machine, about 5 ms, are small in relation to a
    time to first token of 350 ms.
    """
    plan = ("--configs", "tp1", "--models", "r1-distill-qwen-14b", "--dataset", "sample", "--problems", "16")
    load = ("--budgets", "16", "--loads", "16/s,32/s,64/s")

    def sweep(folder: Path) -> None:
        sockets = run_sweep("open-sockets", *plan, *load, "--backend", "emulator", "--speed", "0.05")
        (folder / "sockets").symlink_to(sockets)
        (folder / "simulated").symlink_to(run_sweep("open-simulated", *plan, *load, "--backend", "simulate"))

    folder = made_once(tmp_path_factory, "open-loops", sweep)
    return folder / "sockets", folder / "simulated"


@pytest.mark.parametrize("rate", [16, 32, 64])
def test_an_open_loop_over_sockets_agrees(open_loops: tuple[Path, Path], rate: int) -> None:
    """Time to first token, time per token and latency agree within 3 %.

    A run that blames its own client or a late emulator shows nothing about the simulation.
    """
    sockets, simulated = (folder / f"tp1_r1-distill-qwen-14b_r{rate}" for folder in open_loops)
    ratios = [typical_ratio(sockets, simulated, name) for name in ("ttft_s", "tpot_s", "e2e_s")]
    reasons = read_run(sockets).reasons
    late = any(reason.startswith(("client:", "the emulated server fell")) for reason in reasons)
    if late and ratios != pytest.approx([1, 1, 1], abs=0.03):
        pytest.skip(f"the machine is too busy: {reasons}")
    assert ratios == pytest.approx([1, 1, 1], abs=0.03)


def test_one_pass_derives_every_budget_with_excerpts_only(run_sweep: Callable[..., Path]) -> None:
    """Records contain an excerpt for grading instead of the text; run.json and every record are marked `simulated`."""
    plan = ("--configs", "tp4-ngram", "--models", "s1.1-1.5b", "--dataset", "sample", "--problems", "10")
    out = run_sweep(
        "onepass", *plan, "--budgets", "256,1024,4096", "--one-pass", "--loads", "2,1/s", "--backend", "simulate"
    )
    for cell in ("tp4-ngram_s1.1-1.5b_c2", "tp4-ngram_s1.1-1.5b_r1"):
        run, rows = read_run(out / cell), list(read_records(out / cell / "records.jsonl"))
        assert run.simulated
        assert all(row.simulated and row.emulated for row in rows)
        assert sorted((row.budget, row.derived) for row in rows) == sorted(
            [(256, False), (256, True), (1024, False), (1024, True), (4096, False)] * 10
        )
        assert len({row.seq for row in rows}) == len(rows)
        assert max(len(row.text or "") + len(row.reasoning or "") for row in rows) < 4000
        assert run.energy["joules"] > 0
        finished = [row for row in rows if row.finish_reason == "stop"]
        assert finished
        assert all("\\boxed" in (row.text or "") for row in finished)
    assert json.loads((out / "sweep.json").read_text())["cells"][0]["state"] == "done"


def test_a_simulated_cell_has_a_cost(run_sweep: Callable[..., Path]) -> None:
    """The number of GPUs is that of the configuration, the steady window has a cost and an energy, and the version is the one asked for."""
    plan = (
        "--models",
        "r1-distill-qwen-7b",
        "--dataset",
        "sample",
        "--budgets",
        "64",
        "--requests",
        "96",
        "--loads",
        "4",
    )
    version = ("--engine-version", "0.26")
    out = run_sweep("cost", "--configs", "tp1,tp2", *plan, *version, "--backend", "simulate")
    for folder in find_runs(out):
        run = read_run(folder)
        assert run.num_gpus == run.tensor_parallel_size
        assert run.summary["throughput"]["gpu_seconds_per_token_wall"] > 0
        assert run.summary["steady"]["gpu_seconds_per_token"] > 0
        assert run.energy["steady"]["joules"] > 0
        assert run.server["version"] == "0.26.0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--temperature", "0.6"), "greedy"),
        (("--budget-mode", "forced"), "cut"),
        (("--duration", "5"), "--duration"),
        (("--engine-version", "0.1"), "--engine-version 0.1: choose from 0.26, 0.32"),
    ],
)
def test_what_needs_a_server_is_refused(
    arguments: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--configs", "tp1", "--models", "s1.1-7b", "--dataset", "sample", "--backend", "simulate"]
    assert main(["sweep", *words, *arguments, "--out", str(tmp_path / "sweep")]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "sweep").exists()
