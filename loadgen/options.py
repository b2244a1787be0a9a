"""Defines every option of a run: its default, its command-line argument, and which options can be combined.

Each option is a field of RunOptions and an argument with the same `dest`. The defaults are in RunOptions alone: argparse
leaves out what was not given, and the help prints them from there. A mistake in the options is a UsageError, which is one line
that names the option and what to write instead.

This module does not know the server, the data set or the model. Combinations that depend on them are checked by
`loadgen.target.preflight`.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from loadgen import option_types as parse
from loadgen.errors import UsageError
from loadgen.exchange import BudgetMode
from loadgen.redaction import HIDDEN

Cache = Literal["keep", "salt", "reset"]
Sampling = Literal["greedy", "recommended"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one run. `python -m loadgen` works with the defaults alone; a sweep replaces some of them for each cell."""

    target: str = "http://127.0.0.1:8000/v1"
    model: str | None = None
    """Id of a served model; None means the first one that the server lists."""
    headers: tuple[tuple[str, str], ...] = ()
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key. The key itself is never an option, so that no file contains it."""
    insecure: bool = False
    ca_file: Path | None = None
    timeout_s: float = 600.0

    dataset: str = "math500"
    fields: dict[str, str] = field(default_factory=dict)
    """Names of the fields of a data set, by what they hold. Where empty, they are found by their names."""
    problems: int | None = None
    budgets: tuple[int, ...] = (1024, 4096)
    budget_mode: BudgetMode = "cut"
    answer_tokens: int = 512
    """Tokens for the answer beyond the budget, in the modes that limit only the reasoning (forced, native, prompt)."""
    one_pass: bool = False
    check_budget: int | None = None
    """With one_pass: the budget that is also sent, as a check. None: see `budgets.sent_budgets`; 0 means none."""
    samples: int = 1
    prompt: str | None = None
    path: str = "chat"
    """`chat`, `completions`, or a path below the target that begins with a slash."""
    stream: bool = True
    """False asks for the whole answer in one JSON body, of which only e2e can be measured."""
    sampling: Sampling = "greedy"
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    extra_body: dict[str, Any] = field(default_factory=dict)

    concurrency: int | None = None
    """None means a closed loop of 16, or no limit in an open loop."""
    rate: float | None = None
    """Requests per second of model time."""
    arrival: str = "poisson"
    ramp: tuple[tuple[float, float], ...] = ()
    """Steps of (requests per second, seconds)."""
    times: Path | None = None
    requests: int | None = None
    requests_per_load: parse.Proportion | None = None
    """Number of requests for each stream or for each request per second. `LoadPoint.applied` turns it into `requests`."""
    warmup_per_load: parse.Proportion | None = None
    """The same for `warmup`."""
    duration_s: float | None = None
    repeats: int = 1
    warmup: int = 0
    drain_s: float = 600.0
    workers: int | None = 1
    """Number of client processes; None means one for each core (`auto`)."""
    cache: Cache | None = None
    """None keeps the prefix cache and makes the run SUSPECT if there are hits; with `keep`, hits are intended."""

    out: Path | None = None
    resume: Path | None = None
    keep_text: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    slo: dict[str, float] = field(default_factory=dict)
    percentile: str = "p90"
    """The run is SUSPECT where its sample is too small for this percentile."""
    requirements: Sequence[str] = ()
    """Texts that `option_types.parse_requirement` can read."""
    abort_after: str | None = None
    expect_failures: bool = False
    """Failures are what is measured: a large share of them does not make the run INVALID."""
    strict: bool = False
    dry_run: bool = False

    metrics_port: int | None = None
    """None means 9464 if it is free, -1 means off. A port that was asked for must be free."""
    metrics_host: str = "127.0.0.1"
    gpu_metrics: str | None = None
    progress: Literal["auto", "plain", "none"] = "auto"
    verbose: bool = False

    config_name: str | None = None
    """None means the name that the server reports."""
    num_gpus: int | None = None
    tensor_parallel_size: int | None = None
    speculation: str | None = None
    gpu: str | None = None
    price_per_gpu_hour: float | None = None
    preset: str | None = None
    server: dict[str, Any] = field(default_factory=dict)
    """What the launcher knows about the server (`args image configuration …`); it is merged into `RunInfo.server`."""
    run_id: str | None = None
    """None means `<utc>-<config>-<model>`. A sweep gives each cell a name."""
    argv: tuple[str, ...] = ()
    quiet: bool = False
    """Print no summary, because the command that started the run prints a line of its own."""


def from_args(args: argparse.Namespace) -> RunOptions:
    """Return the options of a command line, with the defaults of RunOptions for the others. Raises UsageError.

    Where the command has several loads (`--loads`), each of them is applied later.
    """
    given = vars(args).copy()
    for name, kind in (("headers", tuple), ("labels", dict)):  # argparse collects their pairs in a list
        if name in given:
            given[name] = kind(given[name])
    options = RunOptions(**{f.name: given[f.name] for f in dataclasses.fields(RunOptions) if f.name in given})
    if options.dataset.startswith(parse.SYNTHETIC):
        options = _with_imposed_lengths(options, given)
    check_combinations(options)
    one_load = _in_proportion(options) and not given.get("loads")
    return load_point_of(options).applied(options) if one_load else options


def _with_imposed_lengths(options: RunOptions, given: dict[str, Any]) -> RunOptions:
    """The options for synthetic prompts, whose replies have the length that the data set imposes. Raises UsageError."""
    length = parse.synthetic(options.dataset).output.mean
    budgets = options.budgets if "budgets" in given else (length,)
    body = {"ignore_eos": True, **options.extra_body}
    return dataclasses.replace(options, budgets=budgets, extra_body=body)


def check_combinations(options: RunOptions) -> None:
    """Check that the options can be combined, whatever the server. Raises UsageError."""
    rates = [name for name in ("rate", "ramp", "times") if getattr(options, name)]
    budgets_given = ",".join(map(str, options.budgets))
    required = {parse.parse_requirement(text).metric for text in options.requirements}
    streamed = sorted({"ttft", "tpot", "itl", "ttft_due"} & {*options.slo, *required})
    rules = [
        *_extra_body_rules(options.extra_body),
        *_synthetic_rules(options),
        (not options.stream and options.one_pass, "--one-pass needs the time of every token, which --no-stream does not give: leave out one of them"),
        (not options.stream and streamed, f"{','.join(streamed)} cannot be measured with --no-stream: only e2e and e2e_due can"),
        ("goodput" in required and not options.slo, "--require goodput needs the objectives that a good request meets: add --slo"),
        (options.budget_mode == "forced" and options.path.startswith("/") and not completions_route(options.path), f"--budget-mode forced needs an endpoint that takes a prompt: --path {options.path} does not end with /completions"),
        (len(rates) > 1, f"--{' and --'.join(rates)} can't be combined: use one of them"),
        (options.arrival == "burst" and options.rate, "--arrival burst sends all requests at once: leave out --rate"),
        (options.arrival not in ("poisson", "burst") and not (options.rate or options.ramp), f"--arrival {options.arrival} needs a rate: add --rate R"),
        (options.one_pass and options.budget_mode != "cut", "--one-pass needs --budget-mode cut: only in this mode is the reply at a smaller budget the beginning of the longer reply"),
        (options.one_pass and not greedy(options), "--one-pass needs greedy decoding, because replies that are sampled differ from run to run: leave out --temperature and --sampling"),
        (options.one_pass and options.samples > 1, "--one-pass decodes greedily, so that all --samples would be equal: leave out one of them"),
        (options.one_pass and len(options.budgets) < 2, "--one-pass derives smaller budgets from the largest one: give at least two --budgets"),
        (options.check_budget and options.check_budget not in options.budgets, f"--check-budget {options.check_budget} is not one of --budgets {budgets_given}"),
        (options.one_pass and (options.duration_s or options.requests or options.requests_per_load or options.ramp or options.times), "--one-pass sends every problem once per budget and pass: leave out --duration, --requests, --ramp and --times"),
        (options.concurrency and open_loop(options), "--concurrency is for a closed loop; --rate, --ramp, --times and --arrival burst are for an open loop: use one of them (a limit on an open loop would hide the time that requests wait)"),
        (options.duration_s and (options.requests or options.requests_per_load), "--duration and --requests can't be combined: use one of them"),
        (_in_proportion(options) and (options.ramp or options.times or options.arrival == "burst"), "Nx in --requests and --warmup is in proportion to --concurrency, --rate or --loads: give a total number of requests"),
        (options.insecure and options.ca_file, "--insecure and --ca-file can't be combined: use one of them"),
        (options.resume and options.out, "--resume continues in the folder of the run: leave out --out"),
    ]  # fmt: skip
    for wrong, message in rules:
        if wrong:
            raise UsageError(message)


def _synthetic_rules(options: RunOptions) -> list[tuple[Any, str]]:
    """Return the rules for synthetic prompts, which have lengths instead of a problem. Raises UsageError."""
    if not options.dataset.startswith(parse.SYNTHETIC):
        return []
    output = parse.synthetic(options.dataset).output.mean
    return [
        (options.budgets != (output,), f"--budgets: output={output} of --dataset {options.dataset} sets the length of the replies: leave out --budgets"),
        (options.budget_mode != "cut" or options.fields, "synthetic prompts have no thinking and no fields: leave out --budget-mode and --fields"),
    ]  # fmt: skip


def _extra_body_rules(body: dict[str, Any]) -> list[tuple[Any, str]]:
    """Return the rules for fields that another option sets: with two values, the run would not be what run.json says."""
    return [
        (body.get("n") not in (None, 1), "--extra-body: n above 1 puts several answers into one stream, whose times cannot be told apart: use --samples N, which sends N requests"),
        ("stream" in body, "--extra-body: stream is set by the suite: use --no-stream for answers in one JSON body"),
        ("max_tokens" in body or "max_completion_tokens" in body, "--extra-body: the limit of a reply is set by --budgets and --answer-tokens: use these"),
        ("model" in body, "--extra-body: the model is set by --model: use that"),
        ("messages" in body or "prompt" in body, "--extra-body: the prompt is made from --dataset and --prompt: use these"),
    ]  # fmt: skip


def completions_route(path: str) -> bool:
    """Tell whether an endpoint takes a prompt instead of messages."""
    return path == "completions" or (path.endswith("/completions") and not path.endswith("/chat/completions"))


def greedy(options: RunOptions) -> bool:
    """Tell whether the same prompt always gives the same reply: greedy sampling and no temperature."""
    return options.sampling == "greedy" and not options.temperature


def open_loop(options: RunOptions) -> bool:
    """Tell whether the due times come from a schedule instead of from the replies."""
    return bool(options.rate or options.ramp or options.times or options.arrival == "burst")


def load_point_of(options: RunOptions) -> parse.LoadPoint:
    """Return the load of --rate or --concurrency."""
    return (
        parse.LoadPoint("open", options.rate) if options.rate else parse.LoadPoint("closed", options.concurrency or 16)
    )


def _in_proportion(options: RunOptions) -> bool:
    return bool(options.requests_per_load or options.warmup_per_load)


DEFAULTS = RunOptions()


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option of a run to a parser, in groups. `from_args` reads them."""
    for title, add_group in (
        ("server", _server),
        ("problems and prompts", _problems),
        ("token budgets", _budgets),
        ("load", _load),
        ("results and verdict", _results),
        ("live view and metrics", _live),
        ("description of the server (by default, the server is asked)", _description),
    ):
        group = parser.add_argument_group(title)
        add_group(partial(group.add_argument, default=argparse.SUPPRESS))


def hide(parser: argparse.ArgumentParser, *names: str) -> None:
    """Leave options that a command refuses out of its help. It still knows them, to say what to use instead."""
    for action in parser._actions:  # noqa: SLF001  argparse has no public list of them
        if action.dest in names:
            action.help = argparse.SUPPRESS


# One line per argument is easier to read.
# fmt: off
def _server(add: Callable[..., Any]) -> None:
    add("--target", metavar="URL", help=f"base URL of an OpenAI-compatible server, with /v1 [{DEFAULTS.target}]")
    add("--model", metavar="ID", help="id of the model [the first one that the server lists]")
    add("--header", dest="headers", metavar="'NAME: VALUE'", action="append", type=parse.header, help="additional HTTP header; can be repeated")
    add("--api-key-env", metavar="NAME", help="name of the environment variable that holds the API key")
    add("--insecure", action="store_true", help="do not verify the server's TLS certificate")
    add("--ca-file", type=Path, metavar="FILE", help="certificate authority to trust (PEM file)")
    add("--timeout", dest="timeout_s", type=parse.seconds, metavar="S", help=f"timeout of one request in seconds [{DEFAULTS.timeout_s:g}]")


def _problems(add: Callable[..., Any]) -> None:
    add("--dataset", metavar="D", help=f"sample (included, needs no network) · math500, gsm8k, aime, aime2025, gpqa (from the Hugging Face Hub, kept) · hf:OWNER/NAME:SPLIT · a JSONL, JSON, CSV or Parquet file · synthetic:input=512,output=256, also 512±128 [{DEFAULTS.dataset}]")
    add("--fields", type=parse.fields, metavar="problem=F,answer=F", help="names of the fields of a file, also of id, subject and level [found by their usual names]")
    add("--problems", type=parse.count, metavar="N", help="use N of the problems, selected by --seed [all]")
    add("--samples", type=parse.count, metavar="N", help="ask each problem N times, for majority voting and pass@k [1]")
    add("--path", type=parse.route, metavar="P", help="endpoint: chat (/chat/completions), completions (/completions), or another path below the target, for example /v2/chat; one that ends with /completions, except /chat/completions, gets a prompt instead of messages [chat]")
    add("--no-stream", dest="stream", action="store_false", help="ask for each answer in one JSON body instead of a stream, where a server offers no stream; only e2e is measured")
    add("--prompt", metavar="STYLE", help="prompt style: chat, bare, r1, s1 or chatml [chosen by the model's id, otherwise chat]")
    add("--sampling", choices=get_args(Sampling), help="sampling parameters: greedy (as in the paper) or recommended (those of the model card) [greedy]")
    add("--temperature", type=parse.number, metavar="T", help="temperature, instead of the one that --sampling sets")
    add("--top-p", type=parse.share, metavar="P", help="top_p, instead of the one that --sampling sets")
    add("--seed", type=int, metavar="N", help="seed of the order, the arrival times and the sampling [0]")
    add("--extra-body", type=parse.json_object, metavar="JSON", help="fields that are added to the body of every request")


def _budgets(add: Callable[..., Any]) -> None:
    add("--budgets", type=parse.budgets, metavar="B,…", help=f"token budgets, for example 1024,4096 or 1k,4k [{','.join(map(str, DEFAULTS.budgets))}]")
    add("--budget-mode", choices=get_args(BudgetMode), help="cut: set max_tokens · forced: stop the reasoning at the budget and force the answer with a second call · native: use vLLM's thinking_token_budget · prompt: state the budget in the prompt [cut]")
    add("--answer-tokens", type=parse.count, metavar="N", help=f"tokens for the answer beyond the budget, except in mode cut [{DEFAULTS.answer_tokens}]")
    add("--one-pass", action="store_true", help="send only the largest budget and derive the smaller ones from its token timestamps; one smaller budget is sent as a check (needs mode cut and greedy decoding)")
    add("--check-budget", type=parse.whole, metavar="B", help="with --one-pass: the budget that is sent as a check, or 0 for none [the smallest, and with several requests in flight also a middle one]")


def _load(add: Callable[..., Any]) -> None:
    add("--concurrency", type=parse.count, metavar="N", help="closed loop with N requests in flight [16]")
    add("--rate", type=parse.rate, metavar="R", help="open loop with R requests per second of the server's time")
    add("--arrival", type=parse.arrival, metavar="A", help="arrival process for --rate or --ramp: poisson, constant, gamma:B (B is the burstiness, 1 is poisson) or burst:N; without a rate: burst (all at once) [poisson]")
    add("--ramp", type=parse.ramp, metavar="R:S,…", help="open loop in steps of R requests per second for S seconds")
    add("--times", type=Path, metavar="FILE", help="open loop with the due times in a file, in seconds, one per line")
    add("--requests", action=parse.Requests, metavar="N|Nx", help="send N requests in total, or with Nx N for each stream or for each request per second (8x at 2/s are 16 requests), also with limits (2x at least 4 at most 64); the problems are repeated as needed")
    add("--duration", dest="duration_s", type=parse.seconds, metavar="S", help="send requests for S seconds; the problems are repeated as needed")
    add("--repeats", type=parse.count, metavar="N", help="send every request N times, each time in another order [1]")
    add("--warmup", action=parse.Requests, metavar="N|Nx", help="send N warm-up requests first, which are recorded but not measured; Nx as in --requests [0]")
    add("--drain", dest="drain_s", type=parse.seconds, metavar="S", help=f"at the end, wait at most S seconds for requests in flight [{DEFAULTS.drain_s:g}]")
    add("--workers", type=parse.workers, metavar="N|auto", help="number of client processes that share the load [1]")
    add("--cache", choices=get_args(Cache), help="prefix cache: keep it (hits are intended), salt every request, or reset it before the run; verified with the server's hit counter [keep it, but report hits as a reason against the run]")


def _results(add: Callable[..., Any]) -> None:
    add("--out", type=Path, metavar="DIR", help="folder for the results, which must not exist yet [results/<utc>-<config>-<model>]")
    add("--resume", type=Path, metavar="DIR", help="complete the run in DIR, with its original options")
    add("--no-text", dest="keep_text", action="store_false", help="leave prompts and answers out of the results")
    add("--label", dest="labels", action="append", type=parse.label, metavar="KEY=VALUE", help="label that is saved in run.json; can be repeated")
    add("--slo", type=parse.slo, metavar="ttft=S,tpot=S,e2e=S", help="service level objectives in seconds (or for example 200ms), for goodput")
    add("--percentile", choices=("p50", "p90", "p95", "p99"), help=f"percentile that the run must have enough requests for; otherwise it is SUSPECT [{DEFAULTS.percentile}]")
    add("--require", dest="requirements", action="append", type=parse.requirement, metavar="'METRIC<LIMIT'", help="exit with code 1 unless this holds at the end, for example 'ttft.p95<200ms', 'failed<1%%' or 'goodput>=0.95'; can be repeated")
    add("--abort-after", type=parse.failures, metavar="N|P%%", help="stop the run when N requests have failed, or P %% of at least ten that have ended")
    add("--strict", action="store_true", help="exit with code 3 if the run is SUSPECT")
    add("--expect-failures", action="store_true", help="failures are what is measured: more than 20 %% of them do not make the run INVALID")
    add("--dry-run", action="store_true", help="check everything and print what would be sent, but send no prompt and write nothing")


def _live(add: Callable[..., Any]) -> None:
    add("--metrics-port", type=parse.port, metavar="PORT|off", help="port on which loadgen_* metrics are served to Prometheus [9464 if it is free]")
    add("--metrics-host", metavar="HOST", help=f"address on which the metrics are served [{DEFAULTS.metrics_host}]")
    add("--gpu-metrics", type=parse.web, metavar="URL", help="URL of a DCGM exporter, for energy and utilization [the emulator's, if there is one]")
    add("--progress", choices=("auto", "plain", "none"), help="progress display: auto is a live view on a terminal and plain lines elsewhere [auto]")
    add("-v", "--verbose", action="store_true", help="also show the client's lag and the raw gaps between chunks at the end")


def _description(add: Callable[..., Any]) -> None:
    add("--config-name", metavar="NAME", help="name of the serving configuration, as in server/configs")
    add("--preset", metavar="NAME", help="name of the model preset, as in server/models")
    add("--num-gpus", type=parse.count, metavar="N", help="number of GPUs that the server uses")
    add("--tensor-parallel-size", type=parse.count, metavar="N", help="tensor parallel size")
    add("--speculation", metavar="METHOD", help="method of speculative decoding: ngram, eagle3, … or none")
    add("--gpu", metavar="NAME", help="name of the GPU model")
    add("--price", dest="price_per_gpu_hour", type=parse.positive, metavar="$", help="price of one GPU per hour in dollars")
# fmt: on


def saved(options: RunOptions) -> dict[str, Any]:
    """Return the options for run.json, without the values of headers."""
    fields = dataclasses.asdict(options) | {"headers": [(name, HIDDEN) for name, _ in options.headers]}
    for name in ("argv", "resume", "out", "dry_run", "server", "verbose", "quiet"):
        del fields[name]
    plain: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
    return plain


def redacted(argv: Sequence[str]) -> list[str]:
    """Return the command line without the values of headers."""
    words = []
    for before, word in zip(("", *argv), argv, strict=False):
        option, equals, value = word.partition("=")
        if before == "--header":
            words.append(f"{word.partition(':')[0]}: {HIDDEN}")
        elif option == "--header" and equals:
            words.append(f"--header={value.partition(':')[0]}: {HIDDEN}")
        else:
            words.append(word)
    return words


def decode(kind: type, value: Any) -> Any:
    """Decode a path in saved options, for msgspec."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
