"""List the columns that the page shows, and define each number as docs/metrics.md does.

A definition states its formula. Every column listed here exists in a table of analysis/tables.
"""

from analysis.page.layout import Column
from loadgen.measure.quantiles import least_sample

SUMMARY = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("load", "load", help="c16: 16 requests in flight; 2/s: arrivals"),
    Column("asked", "asked", help="sampling and request options that differ from the defaults"),
    Column("budget", "budget", ",d", "largest number of tokens of an output"),
    Column("budget_mode", "mode", help="how the budget is enforced"),
    Column("n", "requests", ",d"),
    Column("accuracy", "accuracy", ".1%", "correct answers / all requests; 95 % interval"),
    Column("truncated_share", "truncated", ".0%", "share of requests that reached the budget"),
    Column("tokens_mean", "tokens", ",d", "mean completion tokens"),
    Column("e2e_p50_s", "e2e p50, s", ".3g", f"needs {least_sample(0.5)} successful requests"),
    Column("e2e_p95_s", "e2e p95, s", ".3g", f"needs {least_sample(0.95)} successful requests"),
    Column("ttft_p50_s", "TTFT p50, s", ".2g", "send to first token"),
    Column("ttft_p95_s", "TTFT p95, s", ".2g"),
    Column("requests_per_s", "requests/s", ".3g", "successful requests per second of the steady load"),
    Column("asked_per_s", "asked/s", ".3g", "arrivals per second of an open loop"),
    Column("goodput_per_s", "goodput/s", ".3g", "requests per second that met every objective"),
    Column("good_share", "within SLO", ".1%", "requests that met every objective / all requests"),
    Column("tokens_per_s_user", "tok/s/user", ".3g", "Σ tokens / Σ e2e"),
    Column("tokens_per_s_gpu", "tok/s/GPU", ".3g", "tokens / (GPUs × wall time)"),
    Column("gpu_s_per_token", "GPU-s/token", ".3g", "GPUs × wall time / tokens"),
    Column("gpu_s_per_token_paper", "paper's", ".3g", "GPUs × e2e / tokens: correct for one in flight"),
    Column("cost_of_pass_gpu_s", "GPU-s/correct answer", ".3g", "cost of pass"),
    Column("cost_of_pass_usd", "$/correct answer", ".3g", "cost of pass at the given price"),
    Column("joules_per_token", "J/token", ".3g"),
    Column("failed", "failed", ",d"),
    Column("run_verdict", "verdict", flag=True),
    Column("source", "source", flag=True),
]

CAPACITY = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("asked", "asked"),
    Column("budget", "budget", ",d"),
    Column("capacity_per_s", "requests/s", ".3g", "that one replica takes; of a closed loop the lower bound"),
    Column("load", "at load", help="the highest load that passes, or the lowest that was run"),
    Column("fails_at", "fails at", ".3g", "the lowest load that misses the SLO"),
    Column("decision", "decision", help="pass: the interval lies at or above the share to attain"),
    Column("good_share", "within SLO", ".1%"),
    Column("n", "requests", ",d"),
    Column("accuracy", "accuracy", ".1%"),
    Column("e2e_p50_s", "e2e p50, s", ".3g"),
    Column("cost_of_pass_gpu_s", "GPU-s/correct answer", ".3g"),
    Column("source", "source", flag=True),
]

PAIRS = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("base", "compared to"),
    Column("load", "load"),
    Column("asked", "asked"),
    Column("budget", "budget", ",d"),
    Column("n", "problems", ",d"),
    Column(
        "speedup",
        "speed-up",
        ".3g",
        "Σ e2e of the base / Σ e2e, same problems; the interval has the noise between runs",
    ),
    Column("difference", "shown", flag=True, help="after Holm's correction over all rows"),
    Column("speedup_per_token", "per token", ".3g", "the same for e2e / tokens, where outputs differ in length"),
    Column("cost_ratio", "cost", ".3g", "Σ GPU-seconds / Σ GPU-seconds of the base"),
    Column("identical", "same text", ".1%", "share of problems with exactly the same output"),
    Column(
        "accuracy_change",
        "accuracy change",
        ".1%",
        "accuracy − accuracy of the base; Bonett and Price's interval",
    ),
    Column("gained", "gained", ",d", "problems that are correct only here"),
    Column("lost", "lost", ",d", "problems that are correct only in the base"),
    Column("p_value", "McNemar p", ".2g", "exact test, after Holm's correction over all rows"),
    Column("source", "source", flag=True),
]

CROSSOVER = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("base", "compared to"),
    Column("asked", "asked"),
    Column("budget", "budget", ",d"),
    Column("stops_at", "stops paying at", ".3g", "load at which the speed-up falls to 1; 0: pays at no load"),
    Column("largest_load", "largest load", ".3g", "that was run; nothing is extrapolated"),
    Column("load_kind", "load", help="streams: requests in flight; otherwise requests per second"),
    Column("source", "source", flag=True),
]

DRAFT_TOKENS = [
    Column("model", "model"),
    Column("speculation", "method"),
    Column("load", "load"),
    Column("budget", "budget", ",d"),
    Column("draft_tokens", "draft tokens", ",d", "with the largest speed-up; 0: slower with every number"),
    Column("speedup", "speed-up", ".3g", "over the baseline, with the best number"),
    Column("as_good", "as good", help="other numbers whose speed-up lies within the interval"),
    Column("source", "source", flag=True),
]

VOTES = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("budget", "budget", ",d"),
    Column("k", "answers", ",d", "1 is a single answer"),
    Column("n", "problems", ",d"),
    Column("majority", "majority vote", ".1%"),
    Column("pass_at_k", "pass@k", ".1%", "probability that at least one of k answers is correct"),
    Column("e2e_s", "slowest of k, s", ".3g"),
    Column("gpu_s_per_problem", "GPU-s per problem", ".3g"),
    Column("tokens_per_problem", "tokens per problem", ",d"),
    Column("source", "source", flag=True),
]

CLAIMS = [
    Column("says", "the paper's finding"),
    Column("verdict", "here", flag=True),
    Column("effect", "effect, 95 % interval"),
    Column("source", "source", flag=True),
]

RUNS = [
    Column("cell", "run"),
    Column("verdict", "verdict", flag=True),
    Column("reasons", "reasons"),
    Column("model", "model"),
    Column("config", "configuration"),
    Column("num_gpus", "GPUs", ",d"),
    Column("requests", "requests", ",d"),
    Column("failed", "failed", ",d"),
    Column("duration_s", "duration, s", ".4g"),
    Column("time_scale", "speed", ".3g", "model seconds per second of wall time"),
    Column("source", "source", flag=True),
]

TABLES = {
    "claims": ("The findings of the paper, tested on this data", CLAIMS),
    "summary": ("All settings", SUMMARY),
    "capacity": ("Capacity within the SLO", CAPACITY),
    "speculation": ("Speculation, paired by problem", PAIRS),
    "crossover": ("Where speculation stops paying", CROSSOVER),
    "draft_tokens": ("The best number of draft tokens", DRAFT_TOKENS),
    "tensor_parallel": ("Tensor parallelism, paired by problem", PAIRS),
    "parallel_compute": ("Majority votes, compared to one answer", VOTES),
    "runs": ("Runs", RUNS),
}
"""The tables of the page in order, each with its heading and columns."""
LEDES = {
    "claims": "Findings of arXiv 2509.19645, without its numbers. A claim is held where the whole 95 % interval supports it.",
    "summary": "One row for each configuration, budget and set of conditions. Small numbers are 95 % intervals. A click on a verdict opens the manifest of the run.",
    "capacity": "Each setting at the highest load that meets the SLO, never beyond the largest load that was run.",
    "speculation": "Each configuration with speculation, compared to the one without on the same number of GPUs.",
    "crossover": "The smallest load at which speculation is no longer faster than the baseline, interpolated between the loads that were run.",
    "draft_tokens": "Each method at each load, where several numbers of draft tokens were run.",
    "tensor_parallel": "Each configuration on more GPUs, compared to the one on the fewest GPUs with the same speculation.",
    "parallel_compute": "k answers to a problem cost their sum and take as long as the slowest of them.",
    "runs": "The verdict of each run, with its reasons.",
}
"""The sentence above each table."""

DEFINITIONS = {
    "measured, emulated, simulated, derived": "measured: by requests to a real server. emulated: by requests to the emulated server of this suite. simulated: by the emulated server's engine without HTTP. derived: computed from the token timestamps of a request with a larger budget, and not sent.",
    "accuracy": "correct answers / all requests, including failed requests and truncated answers. The 95 % interval is Wilson's, at the effective number of problems where problems have several samples.",
    "e2e": f"last token − sent, in model seconds. p50 and p95 are order statistics over successful requests, and so are the bounds of their 95 % intervals. A percentile is shown from {least_sample(0.5)} requests (p50) and {least_sample(0.95)} (p95) on; below, at most a lower bound. With several requests in flight the intervals allow for their dependence, and are missing where the run does not show how much another run would differ.",
    "TTFT": "first token − sent.",
    "tokens/s/user": "Σ completion tokens / Σ e2e.",
    "tokens/s/GPU": "completion tokens / (GPUs × wall time).",
    "GPU-seconds per token": "GPUs × wall time / tokens. The wall time of a run is divided equally among the requests in flight at each instant, and idle time in proportion. The table also has the paper's GPUs × e2e / tokens. The two agree with one request in flight.",
    "compute-optimal": "the model and budget with the least arithmetic (2 × parameters × tokens) within two points of the best accuracy, on the fewest GPUs and without speculation, because neither more GPUs nor drafts save arithmetic.",
    "system-optimal": "the model, budget and configuration with the least measured median latency within two points of the best accuracy, under the same conditions.",
    "cost of pass": "GPU-seconds (or dollars, or joules) of all requests / correct answers.",
    "verdict": "VALID, SUSPECT or INVALID: whether the run's own checks trust its numbers. The reasons are in its manifest. INVALID runs are shown in the table, but no conclusion uses them.",
}
