"""Defines every option of a run: its default, its command-line argument, and which options can be combined.

Each option is one field of RunOptions, whose metadata are its argument. The defaults are those of the fields: argparse leaves
out what was not given, and the help prints them from there. A mistake in the options is a UsageError, which is one line that
names the option and what to write instead.

This module does not know the server, the data set or the model. Combinations that depend on them are checked by
`loadgen.target.preflight` and `loadgen.target.probe`.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from loadgen import option_types as parse
from loadgen.errors import check_rules
from loadgen.exchange import BudgetMode
from loadgen.redaction import HIDDEN

Cache = Literal["keep", "salt", "reset"]
Sampling = Literal["greedy", "recommended"]


def argument(text: str, **settings: Any) -> dict[str, Any]:
    """Return the metadata of a field that is an option: its help text and arguments of `add_argument`.

    `flags` are its names where they do not follow from the name of the field.
    """
    return {"help": text, **settings}


# One line per option is easier to read.
# fmt: off
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one run. `python -m loadgen` works with the defaults alone; a sweep replaces some of them for each cell."""

    target: str = field(default="http://127.0.0.1:8000/v1", metadata=argument("base URL of an OpenAI-compatible server, with /v1", metavar="URL"))
    model: str | None = field(default=None, metadata=argument("id of the model [the first one that the server lists]", metavar="ID"))
    headers: tuple[tuple[str, str], ...] = field(default=(), metadata=argument("additional HTTP header; can be repeated", flags=("--header",), metavar="'NAME: VALUE'", action="append", type=parse.header))
    api_key_env: str | None = field(default=None, metadata=argument("name of the environment variable that holds the API key", metavar="NAME"))
    """The key itself is never an option, so that no file contains it."""
    insecure: bool = field(default=False, metadata=argument("do not verify the server's TLS certificate"))
    ca_file: Path | None = field(default=None, metadata=argument("certificate authority to trust (PEM file)", type=Path, metavar="FILE"))
    timeout_s: float = field(default=600.0, metadata=argument("timeout of one request in seconds", flags=("--timeout",), type=parse.seconds, metavar="S"))

    dataset: str = field(default="math500", metadata=argument("sample (included, needs no network) · math500, gsm8k, aime, aime2025, gpqa (from the Hugging Face Hub, kept) · hf:OWNER/NAME:SPLIT · a JSONL, JSON, CSV or Parquet file · synthetic:input=512,output=256, also 512±128", metavar="D"))
    fields: dict[str, str] = field(default_factory=dict, metadata=argument("names of the fields of a file, also of id, subject and level [found by their usual names]", type=parse.fields, metavar="problem=F,answer=F"))
    """By what the fields hold: `problem`, `answer`, `id`, …"""
    problems: int | None = field(default=None, metadata=argument("use N of the problems, selected by --seed [all]", type=parse.count, metavar="N"))
    samples: int = field(default=1, metadata=argument("ask each problem N times, for majority voting and pass@k", type=parse.count, metavar="N"))
    path: str = field(default="chat", metadata=argument("endpoint: chat (/chat/completions), completions (/completions), or another path below the target, for example /v2/chat; one that ends with /completions, except /chat/completions, gets a prompt instead of messages", type=parse.route, metavar="P"))
    stream: bool = field(default=True, metadata=argument("ask for each answer in one JSON body instead of a stream, where a server offers no stream; only e2e is measured", flags=("--no-stream",)))
    prompt: str | None = field(default=None, metadata=argument("prompt style: chat, bare, r1, s1 or chatml [chosen by the model's id, otherwise chat]", metavar="STYLE"))
    sampling: Sampling = field(default="greedy", metadata=argument("sampling parameters: greedy (as in the paper) or recommended (those of the model card)", choices=get_args(Sampling)))
    temperature: float | None = field(default=None, metadata=argument("temperature, instead of the one that --sampling sets", type=parse.number, metavar="T"))
    top_p: float | None = field(default=None, metadata=argument("top_p, instead of the one that --sampling sets", type=parse.share, metavar="P"))
    seed: int = field(default=0, metadata=argument("seed of the order, the arrival times and the sampling", type=int, metavar="N"))
    extra_body: dict[str, Any] = field(default_factory=dict, metadata=argument("fields that are added to the body of every request", type=parse.json_object, metavar="JSON"))

    budgets: tuple[int, ...] = field(default=(1024, 4096), metadata=argument("token budgets, for example 1024,4096 or 1k,4k", type=parse.budgets, metavar="B,…"))
    budget_mode: BudgetMode = field(default="cut", metadata=argument("cut: set max_tokens · forced: stop the reasoning at the budget and force the answer with a second call · native: use vLLM's thinking_token_budget · prompt: state the budget in the prompt", choices=get_args(BudgetMode)))
    answer_tokens: int = field(default=512, metadata=argument("tokens for the answer beyond the budget, except in mode cut", type=parse.count, metavar="N"))
    one_pass: bool = field(default=False, metadata=argument("send only the largest budget and derive the smaller ones from its token timestamps; one smaller budget is sent as a check (needs mode cut and greedy decoding)"))
    check_budget: int | None = field(default=None, metadata=argument("with --one-pass: the budget that is sent as a check, or 0 for none [the smallest, and with several requests in flight also a middle one]", type=parse.whole, metavar="B"))

    concurrency: int | None = field(default=None, metadata=argument("closed loop with N requests in flight [16]", type=parse.count, metavar="N"))
    """None means a closed loop of 16, or no limit in an open loop."""
    rate: float | None = field(default=None, metadata=argument("open loop with R requests per second of the server's time", type=parse.rate, metavar="R"))
    arrival: str = field(default="poisson", metadata=argument("arrival process for --rate or --ramp: poisson, constant, gamma:B (B is the burstiness, 1 is poisson) or burst:N; without a rate: burst (all at once)", type=parse.arrival, metavar="A"))
    ramp: tuple[tuple[float, float], ...] = field(default=(), metadata=argument("open loop in steps of R requests per second for S seconds", type=parse.ramp, metavar="R:S,…"))
    times: Path | None = field(default=None, metadata=argument("open loop with the due times in a file, in seconds, one per line", type=Path, metavar="FILE"))
    requests: int | None = field(default=None, metadata=argument("send N requests in total, or with Nx N for each stream or for each request per second (8x at 2/s are 16 requests), also with limits (2x at least 4 at most 64); the problems are repeated as needed", action=parse.Requests, metavar="N|Nx"))
    requests_per_load: parse.Proportion | None = None
    """Number of requests for each stream or for each request per second. `LoadPoint.applied` turns it into `requests`."""
    duration_s: float | None = field(default=None, metadata=argument("send requests for S seconds; the problems are repeated as needed", flags=("--duration",), type=parse.seconds, metavar="S"))
    repeats: int = field(default=1, metadata=argument("send every request N times, each time in another order", type=parse.count, metavar="N"))
    warmup: int = field(default=0, metadata=argument("send N warm-up requests first, which are recorded but not measured; Nx as in --requests", action=parse.Requests, metavar="N|Nx"))
    warmup_per_load: parse.Proportion | None = None
    """As `requests_per_load`, for `warmup`."""
    drain_s: float = field(default=600.0, metadata=argument("at the end, wait at most S seconds for requests in flight", flags=("--drain",), type=parse.seconds, metavar="S"))
    workers: int | None = field(default=1, metadata=argument("number of client processes that share the load", type=parse.workers, metavar="N|auto"))
    """None means one for each core (`auto`)."""
    cache: Cache | None = field(default=None, metadata=argument("prefix cache: keep it (hits are intended), salt every request, or reset it before the run; verified with the server's hit counter [keep it, but report hits as a reason against the run]", choices=get_args(Cache)))

    out: Path | None = field(default=None, metadata=argument("folder for the results, which must not exist yet [results/<utc>-<config>-<model>]", type=Path, metavar="DIR"))
    resume: Path | None = field(default=None, metadata=argument("complete the run in DIR, with its original options", type=Path, metavar="DIR"))
    keep_text: bool = field(default=True, metadata=argument("leave prompts and answers out of the results", flags=("--no-text",)))
    labels: dict[str, str] = field(default_factory=dict, metadata=argument("label that is saved in run.json; can be repeated", flags=("--label",), action="append", type=parse.label, metavar="KEY=VALUE"))
    slo: dict[str, float] = field(default_factory=dict, metadata=argument("service level objectives in seconds (or for example 200ms), for goodput", type=parse.slo, metavar="ttft=S,tpot=S,e2e=S"))
    percentile: str = field(default="p90", metadata=argument("percentile that the run must have enough requests for; otherwise it is SUSPECT", choices=("p50", "p90", "p95", "p99")))
    requirements: Sequence[str] = field(default=(), metadata=argument("exit with code 1 unless this holds at the end, for example 'ttft.p95<200ms', 'failed<1%%' or 'goodput>=0.95'; can be repeated", flags=("--require",), action="append", type=parse.requirement, metavar="'METRIC<LIMIT'"))
    abort_after: str | None = field(default=None, metadata=argument("stop the run when N requests have failed, or P %% of at least ten that have ended", type=parse.failures, metavar="N|P%%"))
    strict: bool = field(default=False, metadata=argument("exit with code 3 if the run is SUSPECT"))
    expect_failures: bool = field(default=False, metadata=argument("failures are what is measured: more than 20 %% of them do not make the run INVALID"))
    dry_run: bool = field(default=False, metadata=argument("check everything and print what would be sent, but send no prompt and write nothing"))

    metrics_port: int | None = field(default=None, metadata=argument("port on which loadgen_* metrics are served to Prometheus [9464 if it is free]", type=parse.port, metavar="PORT|off"))
    """-1 means off. A port that was asked for must be free."""
    metrics_host: str = field(default="127.0.0.1", metadata=argument("address on which the metrics are served", metavar="HOST"))
    gpu_metrics: str | None = field(default=None, metadata=argument("URL of a DCGM exporter, for energy and utilization [the emulator's, if there is one]", type=parse.web, metavar="URL"))
    progress: Literal["auto", "plain", "none"] = field(default="auto", metadata=argument("progress display: auto is a live view on a terminal and plain lines elsewhere", choices=("auto", "plain", "none")))
    verbose: bool = field(default=False, metadata=argument("also show the client's lag and the raw gaps between chunks at the end", flags=("-v", "--verbose")))

    config_name: str | None = field(default=None, metadata=argument("name of the serving configuration, as in server/configs", metavar="NAME"))
    """None means the name that the server reports."""
    preset: str | None = field(default=None, metadata=argument("name of the model preset, as in server/models", metavar="NAME"))
    num_gpus: int | None = field(default=None, metadata=argument("number of GPUs that the server uses", type=parse.count, metavar="N"))
    tensor_parallel_size: int | None = field(default=None, metadata=argument("tensor parallel size", type=parse.count, metavar="N"))
    speculation: str | None = field(default=None, metadata=argument("method of speculative decoding: ngram, eagle3, … or none", metavar="METHOD"))
    gpu: str | None = field(default=None, metadata=argument("name of the GPU model", metavar="NAME"))
    price_per_gpu_hour: float | None = field(default=None, metadata=argument("price of one GPU per hour in dollars", flags=("--price",), type=parse.positive, metavar="$"))

    server: dict[str, Any] = field(default_factory=dict)
    """What the launcher knows about the server (`args image configuration …`); it is merged into `RunInfo.server`."""
    run_id: str | None = None
    """None means `<utc>-<config>-<model>`. A sweep gives each cell a name."""
    argv: tuple[str, ...] = ()
    quiet: bool = False
    """Print no summary, because the command that started the run prints a line of its own."""

    @property
    def synthetic(self) -> parse.Synthetic | None:
        """The lengths of the prompts and replies of a synthetic data set; None for any other."""
        return parse.synthetic(self.dataset)


GROUPS = {
    "target": "server",
    "dataset": "problems and prompts",
    "budgets": "token budgets",
    "concurrency": "load",
    "out": "results and verdict",
    "metrics_port": "live view and metrics",
    "config_name": "description of the server (by default, the server is asked)",
}
"""The titles of the groups in `--help`, by the first option of each."""
# fmt: on


def from_args(args: argparse.Namespace) -> RunOptions:
    """Return the options of a command line, with the defaults of RunOptions for the others. Raises UsageError.

    Where the command has several loads (`--loads`), each of them is applied later.
    """
    given = vars(args).copy()
    for name, kind in (("headers", tuple), ("labels", dict)):  # argparse collects their pairs in a list
        if name in given:
            given[name] = kind(given[name])
    options = RunOptions(**{f.name: given[f.name] for f in dataclasses.fields(RunOptions) if f.name in given})
    if (lengths := options.synthetic) is not None:
        budgets = given.get("budgets", (lengths.output.mean,))
        options = dataclasses.replace(options, budgets=budgets, extra_body={"ignore_eos": True, **options.extra_body})
    check_combinations(options, load_follows=bool(given.get("loads")) or given.get("over") == "rate")
    one_load = _in_proportion(options) and not given.get("loads")
    return load_point_of(options).applied(options) if one_load else options


SET_ELSEWHERE = {
    "stream": "stream is set by the suite: use --no-stream for answers in one JSON body",
    "max_tokens": "the limit of a reply is set by --budgets and --answer-tokens: use these",
    "max_completion_tokens": "the limit of a reply is set by --budgets and --answer-tokens: use these",
    "model": "the model is set by --model: use that",
    "messages": "the prompt is made from --dataset and --prompt: use these",
    "prompt": "the prompt is made from --dataset and --prompt: use these",
}
"""Fields of a body that --extra-body cannot set: with two values, the run would not be what run.json says."""


def check_combinations(options: RunOptions, *, load_follows: bool = False) -> None:
    """Check that the options can be combined, whatever the server. Raises UsageError.

    With `load_follows`, the rate of each run is set later (`--loads`, or a search over rates).
    """
    rates = [name for name in ("rate", "ramp", "times") if getattr(options, name)]
    budgets_given = ",".join(map(str, options.budgets))
    required = {parse.parse_requirement(text).metric for text in options.requirements}
    streamed = sorted({"ttft", "tpot", "itl", "ttft_due"} & {*options.slo, *required})
    rules = [
        (options.extra_body.get("n") not in (None, 1), "--extra-body: n above 1 puts several answers into one stream, whose times cannot be told apart: use --samples N, which sends N requests"),
        *((name in options.extra_body, f"--extra-body: {message}") for name, message in SET_ELSEWHERE.items()),
        *_synthetic_rules(options),
        (not options.stream and options.one_pass, "--one-pass needs the time of every token, which --no-stream does not give: leave out one of them"),
        (not options.stream and streamed, f"{','.join(streamed)} cannot be measured with --no-stream: only e2e and e2e_due can"),
        ("goodput" in required and not options.slo, "--require goodput needs the objectives that a good request meets: add --slo"),
        (options.budget_mode == "forced" and options.path.startswith("/") and not completions_route(options.path), f"--budget-mode forced needs an endpoint that takes a prompt: --path {options.path} does not end with /completions"),
        (len(rates) > 1, f"--{' and --'.join(rates)} can't be combined: use one of them"),
        (options.arrival == "burst" and options.rate, "--arrival burst sends all requests at once: leave out --rate"),
        (options.arrival not in ("poisson", "burst") and not (options.rate or options.ramp or load_follows), f"--arrival {options.arrival} needs a rate: add --rate R"),
        (options.one_pass and options.budget_mode != "cut", "--one-pass needs --budget-mode cut: only in this mode is the reply at a smaller budget the beginning of the longer reply"),
        (options.one_pass and not greedy(options), "--one-pass needs greedy decoding, because replies that are sampled differ from run to run: leave out --temperature and --sampling"),
        (options.one_pass and options.samples > 1, "--one-pass decodes greedily, so that all --samples would be equal: leave out one of them"),
        (options.one_pass and len(options.budgets) < 2, "--one-pass derives smaller budgets from the largest one: give at least two --budgets"),
        (options.check_budget and options.check_budget not in options.budgets, f"--check-budget {options.check_budget} is not one of --budgets {budgets_given}"),
        (options.one_pass and (options.duration_s or options.requests or options.requests_per_load or options.ramp or options.times), "--one-pass sends every problem once per budget and pass: leave out --duration, --requests, --ramp and --times"),
        (options.concurrency and open_loop(options), "--concurrency is for a closed loop; --rate, --ramp, --times and --arrival burst are for an open loop: use one of them (a limit on an open loop would hide the time that requests wait)"),
        (options.duration_s and (options.requests or options.requests_per_load), "--duration and --requests can't be combined: use one of them"),
        (_in_proportion(options) and (options.ramp or options.times or options.arrival == "burst"), "Nx in --requests and --warmup is in proportion to --concurrency, --rate or --loads: give a total number of requests"),
        (options.model == "", "--model is empty: give the id of a model, or leave the option out"),
        (options.insecure and options.ca_file, "--insecure and --ca-file can't be combined: use one of them"),
        (options.resume and options.out, "--resume continues in the folder of the run: leave out --out"),
    ]  # fmt: skip
    check_rules(rules)


def _synthetic_rules(options: RunOptions) -> list[tuple[Any, str]]:
    """Return the rules for synthetic prompts, which have lengths instead of a problem. Raises UsageError."""
    if (lengths := options.synthetic) is None:
        return []
    output = lengths.output.mean
    return [
        (options.budgets != (output,), f"--budgets: output={output} of --dataset {options.dataset} sets the length of the replies: leave out --budgets"),
        (options.budget_mode != "cut" or options.fields, "synthetic prompts have no thinking and no fields: leave out --budget-mode and --fields"),
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
    if options.rate:
        return parse.LoadPoint("open", options.rate)
    return parse.LoadPoint("closed", options.concurrency or 16)


def _in_proportion(options: RunOptions) -> bool:
    return bool(options.requests_per_load or options.warmup_per_load)


DEFAULTS = RunOptions()


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option of a run to a parser, in groups. `from_args` reads them."""
    for option in dataclasses.fields(RunOptions):
        if option.name in GROUPS:
            group = parser.add_argument_group(GROUPS[option.name])
        if option.metadata:
            _add_argument(group, option)


def _add_argument(group: Any, option: dataclasses.Field[Any]) -> None:
    """Add one option. One whose default is true or false takes no value; the help text shows any other default."""
    settings = {"dest": option.name, "default": argparse.SUPPRESS, **option.metadata}
    flags = settings.pop("flags", (f"--{option.name.replace('_', '-')}",))
    default = option.default
    if isinstance(default, bool):
        settings["action"] = "store_false" if default else "store_true"
    elif default not in (None, (), dataclasses.MISSING):
        words = default if isinstance(default, tuple) else [str(default).removesuffix(".0")]
        settings["help"] += f" [{','.join(map(str, words))}]"
    group.add_argument(*flags, **settings)


def hide(parser: argparse.ArgumentParser, *names: str) -> None:
    """Leave options that a command refuses out of its help. It still knows them, to say what to use instead."""
    for action in parser._actions:  # noqa: SLF001  argparse has no public list of them
        if action.dest in names:
            action.help = argparse.SUPPRESS


def saved(options: RunOptions) -> dict[str, Any]:
    """Return the options for run.json, without the values of headers."""
    fields = dataclasses.asdict(options) | {"headers": [(name, HIDDEN) for name, _ in options.headers]}
    for name in ("argv", "resume", "out", "dry_run", "server", "verbose", "quiet"):
        del fields[name]
    plain: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
    return plain


def redacted(argv: Sequence[str]) -> list[str]:
    """Return the command line without the values of headers."""
    return [
        f"{word.partition(':')[0]}: {HIDDEN}" if before == "--header" or word.startswith("--header=") else word
        for before, word in pairwise(["", *argv])
    ]


def decode(kind: type, value: Any) -> Any:
    """Decode a path in saved options, for msgspec."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
