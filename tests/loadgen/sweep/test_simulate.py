"""Backend `simulate`: the formulas are the client's, the times are the emulator's."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loadgen.cli import main
from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import to_record
from loadgen.measure.one_pass import derive
from loadgen.record import Record, read_records, read_run
from loadgen.sweep.simulated_records import SimulatedReply, cut, record
from tests import ROOT

FIELDS = ("ttft_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "completion_tokens", "chunks", "outcome")


def request(budget: int) -> Request:
    return Request(seq=3, problem_id="p", sample=0, budget=budget, budget_mode="cut", path="", body={})


def reply(rng: random.Random) -> SimulatedReply:
    """Chunks of one to six tokens, now and then, as speculation makes them."""
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


def same(mine: Record, theirs: Record) -> None:
    for name in (*FIELDS, "finish_reason", "prompt_tokens", "first_token_s", "last_token_s"):
        assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=2e-9), name


@pytest.mark.parametrize("seed", range(60))
def test_formulas_are_those_of_the_client(seed: int) -> None:
    """Over arrays as over lists, whole and cut to a budget."""
    rng = random.Random(seed)
    one = reply(rng)
    total = int(one.tokens.sum())
    clock = RunClock(0)
    same(
        record(request(total), one, "r"),
        to_record(request(total), exchange(one), 500_000_000, clock, run_id="r"),
    )
    for budget in {1, total // 2 or 1, max(total - 1, 1), total, total + 1}:
        derived, _ = derive(exchange(one), budget)
        same(
            record(request(budget), cut(one, budget), "r"),
            to_record(request(budget), derived, 500_000_000, clock, run_id="r"),
        )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(name: str, *arguments: str) -> Path:
        out = tmp_path_factory.mktemp("sweep") / name
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "sweep",
            *arguments,
            "--out",
            str(out),
            "--metrics-port",
            "off",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return out

    return run


def test_s1_over_sockets_agrees_too(swept: Callable[..., Path]) -> None:
    """A model without a reasoning parser: the same fields are known, and the same are not."""
    plan = (
        "--configs",
        "tp1",
        "--models",
        "s1.1-1.5b",
        "--dataset",
        "sample",
        "--problems",
        "4",
        "--budgets",
        "700",
    )
    sockets = swept("s1-sockets", *plan, "--loads", "2", "--backend", "emulator")
    simulated = swept("s1-simulated", *plan, "--loads", "2", "--backend", "simulate")
    cell = "tp1_s1.1-1.5b_c2"
    measured = {row.seq: row for row in read_records(sockets / cell / "records.jsonl")}
    for played in read_records(simulated / cell / "records.jsonl"):
        row = measured[played.seq]
        for name in (
            "problem_id",
            "prompt_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "ttfot_s",
            "finish_reason",
        ):
            assert getattr(played, name) == getattr(row, name), name


def sums(folder: Path) -> dict[str, float]:
    rows = list(read_records(folder / "records.jsonl"))
    assert all(row.outcome == "ok" for row in rows)
    return {
        name: sum(getattr(row, name) or 0 for row in rows)
        for name in ("e2e_s", "tpot_s", "completion_tokens", "ttfot_s")
    }


def test_a_slice_over_sockets_agrees(swept: Callable[..., Path]) -> None:
    """Latency, time per token, time to the answer and tokens of the same cells within 2 %, with and without speculation.

    At half speed: what sockets and a client on a busy machine cost is then half as much of a model second.
    """
    plan = (
        "--configs",
        "tp1,tp2-ngram",
        "--models",
        "r1-distill-qwen-7b",
        "--dataset",
        "sample",
        "--problems",
        "6",
    )
    load = ("--budgets", "640", "--loads", "3")
    sockets = swept("sockets", *plan, *load, "--backend", "emulator", "--speed", "0.5")
    simulated = swept("simulated", *plan, *load, "--backend", "simulate")
    for cell in ("tp1_r1-distill-qwen-7b_c3", "tp2-ngram_r1-distill-qwen-7b_c3"):
        measured, played = sums(sockets / cell), sums(simulated / cell)
        assert played["completion_tokens"] == measured["completion_tokens"]
        assert played["e2e_s"] == pytest.approx(measured["e2e_s"], rel=0.02)
        assert played["tpot_s"] == pytest.approx(measured["tpot_s"], rel=0.02)
        assert played["ttfot_s"] == pytest.approx(measured["ttfot_s"], rel=0.02)


def test_first_tokens_over_sockets_come_when_they_are_played(swept: Callable[..., Path]) -> None:
    """The quickest within 2 %, none earlier: what a busy machine does to the others is no part of the model.

    At a tenth of the speed: what a machine is busy for is then a tenth as much of a model second.
    """
    plan = ("--configs", "tp1,tp2-ngram", "--models", "r1-distill-qwen-7b", "--dataset", "sample")
    load = ("--problems", "8", "--budgets", "8", "--loads", "1")
    sockets = swept("first-sockets", *plan, *load, "--backend", "emulator", "--speed", "0.1")
    simulated = swept("first-simulated", *plan, *load, "--backend", "simulate")
    for cell in ("tp1_r1-distill-qwen-7b_c1", "tp2-ngram_r1-distill-qwen-7b_c1"):
        played = {row.seq: row.ttft_s or 0 for row in read_records(simulated / cell / "records.jsonl")}
        rows = list(read_records(sockets / cell / "records.jsonl"))
        late = [(row.ttft_s or 0) / played[row.seq] - 1 for row in rows]
        assert min(late) == pytest.approx(0, abs=0.02)


def test_one_pass_gives_every_budget_marked_and_without_text(swept: Callable[..., Path]) -> None:
    """Derived records hold an excerpt to grade, not the text; run.json and every record say `simulated`."""
    plan = ("--configs", "tp4-ngram", "--models", "s1.1-1.5b", "--dataset", "sample", "--problems", "10")
    out = swept(
        "onepass",
        *plan,
        "--budgets",
        "256,1024,4096",
        "--one-pass",
        "--loads",
        "2,1/s",
        "--backend",
        "simulate",
    )
    for cell in ("tp4-ngram_s1.1-1.5b_c2", "tp4-ngram_s1.1-1.5b_r1"):
        run, rows = read_run(out / cell), list(read_records(out / cell / "records.jsonl"))
        assert run.simulated
        assert all(row.simulated and row.emulated for row in rows)
        assert sorted((row.budget, row.derived) for row in rows) == sorted(
            [(256, False), (256, True), (1024, True), (4096, False)] * 10
        )
        assert len({row.seq for row in rows}) == len(rows)
        assert max(len(row.text or "") + len(row.reasoning or "") for row in rows) < 4000
        assert run.energy["joules"] > 0
        finished = [row for row in rows if row.finish_reason == "stop"]
        assert finished
        assert all("\\boxed" in (row.text or "") for row in finished)
    assert json.loads((out / "sweep.json").read_text())["cells"][0]["state"] == "done"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--temperature", "0.6"), "greedy"),
        (("--budget-mode", "forced"), "cut"),
        (("--duration", "5"), "--duration"),
    ],
)
def test_what_needs_a_server_is_refused(
    arguments: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--configs", "tp1", "--models", "s1.1-7b", "--dataset", "sample", "--backend", "simulate"]
    assert main(["sweep", *words, *arguments, "--out", str(tmp_path / "sweep")]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "sweep").exists()
