"""Every option of a run: its default, its argument, and which go together; nothing here sends or reads anything.

Rules: one field a choice, one argument a field with the same `dest`, grouped as a person asks; the defaults live in
RunOptions alone (argparse suppresses its own) and the help prints them from there. What an operator got wrong is a
UsageError: one line that names the option and what to write instead.

Does not know: what a server, a data set or a model says; combinations that need those are refused by preflight.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from loadgen.errors import UsageError
from loadgen.option_types import (
    Header,
    Label,
    arrival,
    budgets,
    count,
    json_object,
    number,
    port,
    positive,
    ramp,
    seconds,
    share,
    slo,
    web,
    whole,
    workers,
)
from loadgen.record import BudgetMode

HIDDEN = "***"

__all__ = ["RunOptions", "UsageError", "add_run_arguments", "from_args", "greedy", "open_loop"]

Cache = Literal["keep", "salt", "reset"]
Sampling = Literal["greedy", "recommended"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run. The defaults make `python -m loadgen` alone work; a sweep replaces what differs by cell."""

    target: str = "http://127.0.0.1:8000/v1"
    model: str | None = None
    """Served id; None is the first one the server lists."""
    headers: tuple[tuple[str, str], ...] = ()
    api_key_env: str | None = None
    """Name of the environment variable that holds the key. The key itself is never an option."""
    insecure: bool = False
    ca_file: Path | None = None
    timeout_s: float = 600.0

    dataset: str = "math500"
    problems: int | None = None
    budgets: tuple[int, ...] = (1024, 4096)
    budget_mode: BudgetMode = "cut"
    answer_tokens: int = 512
    """Room for the answer beyond the budget, where the mode bounds thinking alone (forced, native, prompt)."""
    one_pass: bool = False
    check_budget: int | None = None
    """With one_pass: the budget that is also run for real; None is the smallest, 0 is none."""
    samples: int = 1
    prompt: str | None = None
    path: Literal["chat", "completions"] = "chat"
    sampling: Sampling = "greedy"
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    extra_body: dict[str, Any] = field(default_factory=dict)

    concurrency: int | None = None
    """Closed loop; None is 16 where no open schedule is given, and no cap where one is."""
    rate: float | None = None
    arrival: str = "poisson"
    ramp: tuple[tuple[float, float], ...] = ()
    """(requests per second, seconds) steps."""
    times: Path | None = None
    requests: int | None = None
    duration_s: float | None = None
    repeats: int = 1
    warmup: int = 0
    drain_s: float = 600.0
    workers: int | None = 1
    """None is one a core (`auto`)."""
    cache: Cache | None = None
    """None keeps the cache and holds hits to be a mistake; `keep` means them."""

    out: Path | None = None
    resume: Path | None = None
    keep_text: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    slo: dict[str, float] = field(default_factory=dict)
    percentile: str = "p90"
    """The run is SUSPECT where its sample can't carry this one."""
    strict: bool = False
    dry_run: bool = False

    metrics_port: int | None = None
    """None is 9464 where it is free, -1 is off; a port that was asked for must be free."""
    metrics_host: str = "127.0.0.1"
    gpu_metrics: str | None = None
    progress: Literal["auto", "plain", "none"] = "auto"

    config_name: str | None = None
    """None is what the server calls itself."""
    num_gpus: int | None = None
    tensor_parallel_size: int | None = None
    speculation: str | None = None
    gpu: str | None = None
    price_per_gpu_hour: float | None = None
    preset: str | None = None
    server: dict[str, Any] = field(default_factory=dict)
    """What the launcher knows of the server (`args image configuration …`), merged into `RunInfo.server`."""
    run_id: str | None = None
    """None is `<utc>-<config>-<model>`; a sweep names its cells."""
    argv: tuple[str, ...] = ()


def from_args(args: argparse.Namespace) -> RunOptions:
    """Options as given on a command line; whatever was left out keeps RunOptions' default. Raises UsageError."""
    given = vars(args)
    options = RunOptions(**{f.name: given[f.name] for f in dataclasses.fields(RunOptions) if f.name in given})
    check(options)
    return options


def check(options: RunOptions) -> None:
    """Refuse combinations that contradict themselves, whatever the server."""
    shapes = [name for name in ("rate", "ramp", "times") if getattr(options, name)]
    budgets_given = ",".join(map(str, options.budgets))
    rules = [
        (len(shapes) > 1, f"--{' and --'.join(shapes)} exclude each other: give one load shape"),
        (options.arrival == "burst" and options.rate, "--arrival burst sends all at once: leave --rate out"),
        (options.arrival not in ("poisson", "burst") and not (options.rate or options.ramp), f"--arrival {options.arrival} needs a rate: say --rate R"),
        (options.one_pass and options.budget_mode != "cut", "--one-pass needs --budget-mode cut: only there is a shorter budget a prefix of the longest"),
        (options.one_pass and not greedy(options), "--one-pass needs greedy decoding: a sampled run is no prefix of another; leave --temperature and --sampling out"),
        (options.one_pass and options.samples > 1, "--one-pass runs greedily, where --samples are all alike: leave one out"),
        (options.one_pass and len(options.budgets) < 2, "--one-pass derives smaller budgets from the largest: give at least two in --budgets"),
        (options.check_budget and options.check_budget not in options.budgets, f"--check-budget {options.check_budget} is none of --budgets {budgets_given}"),
        (options.one_pass and (options.duration_s or options.requests), "--one-pass goes through the whole plan: leave --duration and --requests out"),
        (options.concurrency and open_loop(options), "--concurrency is a closed loop, --rate, --ramp, --times and burst are open ones: give one (a cap would hide the waiting)"),
        (options.duration_s and options.requests, "--duration and --requests exclude each other: give one"),
        (options.insecure and options.ca_file, "--insecure and --ca-file exclude each other: give one"),
        (options.resume and options.out, "--resume continues in its own folder: leave --out out"),
    ]  # fmt: skip
    for wrong, message in rules:
        if wrong:
            raise UsageError(message)


def greedy(options: RunOptions) -> bool:
    """True where the same prompt gives the same reply: greedy sampling and no temperature."""
    return options.sampling == "greedy" and not options.temperature


def open_loop(options: RunOptions) -> bool:
    """True where due times come from a schedule, not from replies."""
    return bool(options.rate or options.ramp or options.times or options.arrival == "burst")


D = RunOptions()


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option of a run, in groups. `options.from_args` reads them."""
    for title, add_group in (
        ("where to send", _where),
        ("what to ask", _what),
        ("token budgets", _budgets),
        ("how hard to load", _load),
        ("what to keep and how to judge", _keep),
        ("watching a run", _watch),
        ("what the server is (else it is asked)", _naming),
    ):
        group = parser.add_argument_group(title)
        add_group(partial(group.add_argument, default=argparse.SUPPRESS))


# One line an argument reads as the table it is.
# fmt: off
def _where(add: Callable[..., Any]) -> None:
    add("--target", metavar="URL", help=f"OpenAI-compatible base URL, with /v1 [{D.target}]")
    add("--model", metavar="ID", help="served model id [the first the server lists]")
    add("--header", dest="headers", metavar="'NAME: VALUE'", action=Header, help="extra HTTP header, repeatable")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the key; the key itself is never an option")
    add("--insecure", action="store_true", help="do not verify the server's TLS certificate")
    add("--ca-file", type=Path, metavar="FILE", help="private certificate authority (PEM)")
    add("--timeout", dest="timeout_s", type=seconds, metavar="S", help=f"longest a request may take [{D.timeout_s:g}]")


def _what(add: Callable[..., Any]) -> None:
    add("--dataset", metavar="D", help=f"math500 (from the Hugging Face Hub, once), sample (own problems, offline), gsm8k, aime, or a JSONL file with `problem` and `answer` a line [{D.dataset}]")
    add("--problems", type=count, metavar="N", help="ask N of them, chosen by --seed [all]")
    add("--samples", type=count, metavar="N", help="ask each problem N times, for majority vote and pass@k [1]")
    add("--path", choices=("chat", "completions"), help="endpoint below the target [chat]")
    add("--prompt", metavar="STYLE", help="how to ask: chat, bare, r1, s1 [by the model's id, else chat]")
    add("--sampling", choices=get_args(Sampling), help="greedy (as in the paper) or recommended (the model card's) [greedy]")
    add("--temperature", type=number, metavar="T", help="overrides --sampling's")
    add("--top-p", type=share, metavar="P", help="overrides --sampling's")
    add("--seed", type=int, metavar="N", help="order, arrivals and sampling all follow from it [0]")
    add("--extra-body", type=json_object, metavar="JSON", help="fields merged into every request's body")


def _budgets(add: Callable[..., Any]) -> None:
    add("--budgets", type=budgets, metavar="B,…", help=f"token budgets, also 1k,4k [{','.join(map(str, D.budgets))}]")
    add("--budget-mode", choices=get_args(BudgetMode), help="cut: max_tokens · forced: thinking stopped at the budget, the answer forced by a second call · native: vLLM's thinking_token_budget · prompt: asked for in words [cut]")
    add("--answer-tokens", type=count, metavar="N", help=f"room for the answer beyond a thinking budget [{D.answer_tokens}]")
    add("--one-pass", action="store_true", help="run the largest budget, derive every smaller one from its token timestamps (greedy cut only), and run one for real as a check")
    add("--check-budget", type=whole, metavar="B", help="with --one-pass: the budget run for real; 0 for none [the smallest]")


def _load(add: Callable[..., Any]) -> None:
    add("--concurrency", type=count, metavar="N", help="closed loop of N streams [16]")
    add("--rate", type=positive, metavar="R", help="open loop, R requests a second of server time")
    add("--arrival", type=arrival, metavar="A", help="with --rate: poisson, constant, gamma:B (burstiness B; 1 is poisson) or burst:N; alone: burst, all at once [poisson]")
    add("--ramp", type=ramp, metavar="R:S,…", help="open loop in steps: R requests a second for S seconds, …")
    add("--times", type=Path, metavar="FILE", help="open loop replaying a file: seconds from the start, one a line")
    add("--requests", type=count, metavar="N", help="send N in all: the plan cut short or begun again")
    add("--duration", dest="duration_s", type=seconds, metavar="S", help="send for S seconds, the plan again as needed")
    add("--repeats", type=count, metavar="N", help="go through the whole plan N times [1]")
    add("--warmup", type=whole, metavar="N", help="requests before the measured ones, recorded apart [0]")
    add("--drain", dest="drain_s", type=seconds, metavar="S", help=f"longest wait for what is in flight at the end [{D.drain_s:g}]")
    add("--workers", type=workers, metavar="N|auto", help="client processes that split the schedule [1]")
    add("--cache", choices=get_args(Cache), help="prefix cache: keep it, salt every request, or reset it before the run; asserted by the server's own hit counter [keep, hits held to be a mistake]")


def _keep(add: Callable[..., Any]) -> None:
    add("--out", type=Path, metavar="DIR", help="folder to write; must not exist [results/<utc>-<config>-<model>]")
    add("--resume", type=Path, metavar="DIR", help="complete what is missing in DIR, with the options it was begun with")
    add("--no-text", dest="keep_text", action="store_false", help="keep prompts and answers out of the results")
    add("--label", dest="labels", action=Label, metavar="K=V", help="kept in run.json, repeatable")
    add("--slo", type=slo, metavar="ttft=S,tpot=S,e2e=S", help="objectives in seconds (or 200ms): goodput with its interval")
    add("--percentile", choices=("p50", "p90", "p95", "p99"), help=f"the run is SUSPECT where its sample can't carry this one [{D.percentile}]")
    add("--strict", action="store_true", help="exit 3 where the run judges itself SUSPECT, 4 where INVALID")
    add("--dry-run", action="store_true", help="check everything, print the plan, send no prompt, write nothing")


def _watch(add: Callable[..., Any]) -> None:
    add("--metrics-port", type=port, metavar="PORT|off", help="serve loadgen_* metrics to Prometheus [9464 if free]")
    add("--metrics-host", metavar="HOST", help=f"address they are served on [{D.metrics_host}]")
    add("--gpu-metrics", type=web, metavar="URL", help="DCGM exporter to read energy and utilisation from [what the emulator offers]")
    add("--progress", choices=("auto", "plain", "none"), help="live view on a terminal, plain lines elsewhere [auto]")


def _naming(add: Callable[..., Any]) -> None:
    add("--config-name", metavar="NAME", help="serving configuration, as in server/configs")
    add("--preset", metavar="NAME", help="model preset, as in server/models")
    add("--num-gpus", type=count, metavar="N", help="GPUs the server holds")
    add("--tensor-parallel-size", type=count, metavar="N", help="tensor parallel size")
    add("--speculation", metavar="METHOD", help="ngram, eagle3, … or none")
    add("--gpu", metavar="NAME", help="GPU model")
    add("--price", dest="price_per_gpu_hour", type=positive, metavar="$", help="price of one GPU for one hour")
# fmt: on


def saved(options: RunOptions) -> dict[str, Any]:
    """Options for run.json: values of headers are hidden."""
    fields = dataclasses.asdict(options) | {"headers": [(name, HIDDEN) for name, _ in options.headers]}
    for name in ("argv", "resume", "out", "dry_run", "server"):
        del fields[name]
    plain: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
    return plain


def redacted(argv: Sequence[str]) -> list[str]:
    """The command line without the values of headers."""
    hidden = []
    for before, word in zip(("", *argv), argv, strict=False):
        option, equals, value = word.partition("=")
        if before == "--header":
            hidden.append(f"{word.partition(':')[0]}: {HIDDEN}")
        elif option == "--header" and equals:
            hidden.append(f"--header={value.partition(':')[0]}: {HIDDEN}")
        else:
            hidden.append(word)
    return hidden


def decode(kind: type, value: Any) -> Any:
    """A path in saved options."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
