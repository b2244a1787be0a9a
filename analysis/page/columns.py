"""What each number means, in the words of docs/metrics.md, and which columns the page shows.

Rules: a definition names its formula. A column here exists in tables.py.
"""

from analysis.page.html import Column

SUMMARY = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("load", "load", help="c16: 16 requests in flight; 2/s: arrivals"),
    Column("asked", "asked", help="sampling, forced length, prompt, cache: whatever is not usual"),
    Column("budget", "budget", ",d", "tokens the answer may take"),
    Column("budget_mode", "mode", help="how the budget is enforced"),
    Column("n", "requests", ",d"),
    Column("accuracy", "accuracy", ".1%", "right answers / all requests; 95 % interval"),
    Column("truncated_share", "cut", ".0%", "share that ran into the budget"),
    Column("tokens_mean", "tokens", ",d", "mean completion tokens"),
    Column("e2e_p50_s", "e2e p50, s", ".3g", "sent to last token, successes; order-statistic interval"),
    Column("e2e_p95_s", "e2e p95, s", ".3g", "a ? where the sample cannot bound it from above"),
    Column("ttft_p50_s", "TTFT p50, s", ".2g", "sent to first token"),
    Column("tokens_per_s_user", "tok/s/user", ".3g", "tokens / e2e, ratio of sums"),
    Column("tokens_per_s_gpu", "tok/s/GPU", ".3g", "tokens / (GPUs × wall)"),
    Column("gpu_s_per_token", "GPU-s/token", ".3g", "GPUs × wall / tokens"),
    Column("gpu_s_per_token_paper", "paper's", ".3g", "GPUs × e2e / tokens: right only with one in flight"),
    Column("cost_of_pass_gpu_s", "GPU-s/right answer", ".3g", "cost of pass"),
    Column("cost_of_pass_usd", "$/right answer", ".3g", "cost of pass at the price given"),
    Column("joules_per_token", "J/token", ".3g"),
    Column("failed", "failed", ",d"),
    Column("run_verdict", "verdict", flag=True),
    Column("source", "source", flag=True),
]

PAIRS = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("base", "against"),
    Column("load", "load"),
    Column("asked", "asked"),
    Column("budget", "budget", ",d"),
    Column("n", "problems", ",d"),
    Column("speedup", "speed-up", ".3g", "Σ e2e base / Σ e2e new, same problems"),
    Column("speedup_per_token", "per token", ".3g", "the same of e2e / tokens: where texts differ in length"),
    Column("cost_ratio", "cost", ".3g", "Σ GPU-seconds new / base"),
    Column("identical", "same text", ".1%", "problems with the same answer, letter by letter"),
    Column("accuracy_change", "accuracy change", ".1%", "new − base; Bonett and Price's interval"),
    Column("gained", "gained", ",d", "right only here"),
    Column("lost", "lost", ",d", "right only in the base"),
    Column("p_value", "McNemar p", ".2g", "exact"),
    Column("source", "source", flag=True),
]

VOTES = [
    Column("model", "model"),
    Column("config", "configuration"),
    Column("budget", "budget", ",d"),
    Column("k", "answers", ",d", "1: a single answer"),
    Column("n", "problems", ",d"),
    Column("majority", "majority vote", ".1%"),
    Column("pass_at_k", "pass@k", ".1%", "at least one of k is right"),
    Column("e2e_s", "slowest of k, s", ".3g"),
    Column("gpu_s_per_problem", "GPU-s a problem", ".3g"),
    Column("tokens_per_problem", "tokens a problem", ",d"),
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
    Column("model", "model"),
    Column("config", "configuration"),
    Column("num_gpus", "GPUs", ",d"),
    Column("requests", "requests", ",d"),
    Column("failed", "failed", ",d"),
    Column("duration_s", "duration, s", ".4g"),
    Column("time_scale", "speed", ".3g", "model seconds a wall second"),
    Column("source", "source", flag=True),
    Column("verdict", "verdict", flag=True),
    Column("reasons", "reasons"),
]

DEFINITIONS = [
    (
        "measured, emulated, simulated, derived",
        "measured: a real server. emulated: this suite's emulated server. simulated: its engine stepped without HTTP. derived: cut from a longer run's token timestamps, not sent.",
    ),
    (
        "accuracy",
        "right answers / all requests, failures and truncated answers included; Wilson's 95 % interval, or resampled by problem where a problem was asked more than once.",
    ),
    (
        "e2e",
        "last token − sent, in model seconds. p50 and p95 are order statistics over successes, with the order statistics that hold the true value 95 times in 100; a p95 needs 20 requests to be shown and 72 to be bounded from above.",
    ),
    ("TTFT", "first token − sent."),
    ("tokens/s/user", "Σ completion tokens / Σ e2e."),
    ("tokens/s/GPU", "completion tokens / (GPUs × wall)."),
    (
        "GPU-seconds per token",
        "GPUs × wall / tokens. Within a run the wall is shared: at each instant equally among the requests in flight, idle time in proportion. The paper's GPUs × e2e / tokens stands beside it; the two agree with one request in flight.",
    ),
    (
        "compute-optimal",
        "the model and budget that come within two points of the best accuracy with the least arithmetic (2 × parameters × tokens: GPU-seconds on an ideal GPU), served as arithmetic advises: on the fewest GPUs, without drafts.",
    ),
    (
        "system-optimal",
        "the model, budget and configuration that come within two points of the best accuracy with the least measured latency, under the same load and sampling.",
    ),
    ("cost of pass", "GPU-seconds (dollars, joules) of all requests / right answers."),
    (
        "verdict",
        "VALID, SUSPECT or INVALID, as the run judged itself; the reasons are in its manifest. INVALID runs are in the table and in no conclusion.",
    ),
]
