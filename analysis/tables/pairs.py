"""Compare two configurations on the same problems: speed-up, cost, identical answers and accuracy, paired by problem.

The two *arms* of a pair differ in one thing (speculation, or the number of GPUs) and agree in the rest of their setting. A
comparison uses the problems that both arms answered. A speed-up is a ratio of sums (base / new). Its interval includes the
differences between problems and the noise between runs (analysis/noise.py). A table has many rows, so a difference counts as
shown only after Holm's correction over all of them. INVALID runs are left out.

This module reads speculation and tensor parallelism from the run and not from the configuration's name. The name is used
only where the number of GPUs differs: what follows `tpN` must be equal, because `tp2-sync` is not `tp1` on two GPUs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import noise, stats
from analysis.data.setting import SETTING, by_conditions
from analysis.format import first, records
from analysis.tables.crossover import crossovers
from analysis.tables.repeats import repeats
from analysis.tables.summary import judged, named, ordered, requests

SAME = [name for name in SETTING if name != "config"]
TIMES = ["e2e_s", "gpu_s", "server_s", "s_per_token", "gpu_s_per_token"]
COMPARED = [*TIMES, "fingerprint", "correct", "samples"]
MEANS = [*TIMES, "completion_tokens", "correct", "ok", "energy_j", "tflop"]
OF_SETTING = ["num_gpus", "tp", "params_b", "speculation", "fingerprint"]
READ = [*SETTING, "problem_id", "cell", "e2e_s", "gpu_s", "server_s", *MEANS[len(TIMES) :], *OF_SETTING]
"""The columns that are read: a copy of all columns of a million requests would take half a gigabyte."""


def per_problem(frame: pd.DataFrame) -> pd.DataFrame:
    """Means for each arm and problem over samples and repeated runs, with columns that describe the arm."""
    rows = requests(frame)
    rows = rows.loc[(judged(rows) != "INVALID").to_numpy(), READ]
    s_per_token = rows["e2e_s"] / rows["completion_tokens"].where(rows["completion_tokens"] > 0)
    rows = rows.assign(
        ok=rows["ok"].astype(float), s_per_token=s_per_token, gpu_s_per_token=s_per_token * rows["num_gpus"]
    )
    rows.loc[rows["ok"] == 0, ["e2e_s", "s_per_token", "gpu_s_per_token"]] = np.nan
    groups = rows.groupby([*SETTING, "problem_id"], observed=True, sort=False)
    arm = groups[OF_SETTING].first()
    table = groups[MEANS].mean().join(arm).join(groups.size().rename("samples")).reset_index()
    found = repeats(rows)
    if found.empty:
        return table.assign(runs=1, deviation_e2e_s=np.nan, deviation_gpu_s=np.nan)
    return table.merge(found, on=SETTING, how="left").fillna({"runs": 1})


def speculation(problems: pd.DataFrame, between_runs: float = noise.DAY_TO_DAY) -> pd.DataFrame:
    """Compare each configuration with speculation to the one without, on the same number of GPUs."""
    pairs = [
        _compare(base, new, between_runs)
        for base, new in _pairs(problems, [*SAME, "tp", "num_gpus"], "speculation")
        if base["speculation"].iloc[0] == "off" and new["speculation"].iloc[0] != "off"
    ]
    return _sorted(pairs)


def tensor_parallel(problems: pd.DataFrame, between_runs: float = noise.DAY_TO_DAY) -> pd.DataFrame:
    """Compare each configuration on several GPUs to the one on the fewest, with the same speculation."""
    found = {name: re.match(r"tp\d+([\w.-]*)", str(name)) for name in problems["config"].unique()}
    rest = problems["config"].map({name: one[1] if one else "" for name, one in found.items()})
    pairs = [
        _compare(base, new, between_runs)
        for base, new in _pairs(problems.assign(rest=rest), [*SAME, "speculation", "rest"], "tp")
        if base["tp"].iloc[0] < new["tp"].iloc[0]
    ]
    return _sorted(pairs)


def _pairs(problems: pd.DataFrame, same: list[str], differs: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """In each group, the arm with the smallest value of `differs` paired with every other arm; `off` is the smallest."""
    for _, group in problems.groupby(same, observed=True, sort=False, dropna=False):
        arms = [arm for _, arm in group.groupby("config", observed=True, sort=False)]
        base = min(arms, key=lambda arm: _order(*(arm[name].iloc[0] for name in (differs, "config"))))
        yield from ((base, arm) for arm in arms if arm is not base)


def _order(value: Any, config: str) -> tuple[Any, ...]:
    """Sort key of an arm by what differs; of two equal values, the configuration with the shorter name comes first."""
    return value != "off", value, len(config)


def _compare(base: pd.DataFrame, new: pd.DataFrame, between_runs: float) -> dict[str, Any]:
    both = _both(base, new)
    row = first(new, [*SAME, "config", "params_b", "tp", "num_gpus", "speculation"])
    row |= {"base": base["config"].iloc[0], "base_gpus": base["num_gpus"].iloc[0], "n": len(both)}

    def over(top: str, bottom: str, measure: str) -> noise.Effect:
        sides = (_runs(base, measure), _runs(new, measure))
        return noise.effect(*stats.log_ratio(both[top], both[bottom]), sides, between_runs)

    faster = over("e2e_s_base", "e2e_s_new", "e2e_s")
    row |= named("speedup", shown(faster, len(both)))
    row |= {"speedup_p": faster.p_value, "repeated": faster.repeated}
    per_token = over("s_per_token_base", "s_per_token_new", "e2e_s")
    row |= named("speedup_per_token", shown(per_token, len(both)))
    row |= named("cost_ratio", shown(over("gpu_s_new", "gpu_s_base", "gpu_s"), len(both)))
    return row | _identity(both) | _accuracy(both)


def _both(base: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The problems that both arms have, side by side. A merge of pandas would take most of the time of a comparison."""
    places = pd.Index(new["problem_id"]).get_indexer(pd.Index(base["problem_id"]))
    common = places >= 0
    old = {f"{name}_base": base[name].to_numpy()[common] for name in COMPARED}
    return pd.DataFrame(old | {f"{name}_new": new[name].to_numpy()[places[common]] for name in COMPARED})


def _runs(arm: pd.DataFrame, measure: str) -> noise.Runs:
    return noise.Runs(int(arm["runs"].iloc[0]), float(arm[f"deviation_{measure}"].iloc[0]))


def shown(found: noise.Effect, problems: int) -> stats.Interval:
    """The interval of an effect; without bounds for fewer problems than an interval needs."""
    if problems >= stats.MIN_UNITS:
        return found.interval()
    return stats.Interval(found.interval().estimate, float("nan"), float("nan"))


def _identity(both: pd.DataFrame) -> dict[str, float]:
    known = both[both["fingerprint_base"].notna() & both["fingerprint_new"].notna()]
    same = int((known["fingerprint_base"] == known["fingerprint_new"]).sum())
    return named("identical", stats.proportion(same, len(known)))


def _accuracy(both: pd.DataFrame) -> dict[str, Any]:
    """McNemar's test where each problem was asked once, otherwise the mean change by problem."""
    if (both["samples_base"] > 1).any() or (both["samples_new"] > 1).any():
        change = stats.change(both["correct_new"] - both["correct_base"])
        return named("accuracy_change", change) | {"gained": np.nan, "lost": np.nan, "p_value": np.nan}
    test = stats.mcnemar(both["correct_base"], both["correct_new"])
    counts = {"gained": test.gained, "lost": test.lost, "p_value": test.p_value}
    return named("accuracy_change", test.difference) | counts


def _sorted(pairs: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(pairs)
    if table.empty:
        return pd.DataFrame(columns=["model", "config", "base", "budget", "speedup"])
    corrected = stats.holm(table["speedup_p"].where(table["n"] >= stats.MIN_UNITS))
    sign = np.where(table["speedup"] > 1, "faster", "slower")
    table["difference"] = np.where(corrected <= stats.ALPHA, sign, "not shown")
    table["p_value"] = stats.holm(table["p_value"])
    return ordered(table.drop(columns="speedup_p"))


def cost_variation(problems: pd.DataFrame) -> pd.DataFrame:
    """How much the cost of a token varies between problems, for each arm: coefficient of variation and deciles."""
    rows = []
    for key, arm in problems.groupby(SETTING, observed=True, sort=False):
        cost = arm["gpu_s_per_token"].dropna()
        if len(cost) < stats.MIN_UNITS:
            continue
        deciles = np.quantile(cost, [0.1, 0.5, 0.9])
        row = dict(zip(SETTING, key, strict=True)) | {"n": len(cost)}
        row |= first(arm, ["speculation", "params_b", "tp"])
        row |= named("variation", stats.variation(cost))
        rows.append(row | dict(zip(("p10", "p50", "p90"), deciles.tolist(), strict=True)))
    table = pd.DataFrame(rows, columns=list(rows[0]) if rows else [*SETTING, "variation"])
    return ordered(table)


def nearest_conditions(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of each model under those conditions nearest to the paper's that have enough problems."""
    if table.empty:
        return table
    chosen = []
    for _, rows in table.groupby("model", observed=True, sort=False):
        groups = list(by_conditions(rows))
        chosen.append(next((group for group in groups if group["n"].min() >= stats.MIN_UNITS), groups[0]))
    return pd.concat(chosen)


def most_gpus(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of each model on the most GPUs, without speculation where there are any."""
    if table.empty:
        return table
    most = table[table["tp"] == table.groupby("model", observed=True)["tp"].transform("max")]
    plain_rows = most[most["speculation"].astype(str) == "off"]
    chosen: pd.DataFrame = plain_rows if len(plain_rows) else most
    return chosen


OF_ARM = ["e2e_s", "gpu_s_per_token", "runs", "deviation_e2e_s"]
Arms = dict[Any, pd.DataFrame]
"""The problems of each setting, indexed by problem."""


def by_arm(problems: pd.DataFrame) -> Arms:
    """The problems of each setting."""
    known = problems[["problem_id", *SETTING, *OF_ARM]].set_index("problem_id")
    groups = known.groupby(SETTING, observed=True, sort=False)[OF_ARM]
    return dict(list(groups))


def arms_of(arms: Arms, row: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The problems of both arms of a comparison, base first."""
    base, new = (tuple((row | {"config": row[name]})[key] for key in SETTING) for name in ("base", "config"))
    return arms[base], arms[new]


def pooled_speedups(arms: Arms, table: pd.DataFrame, between_runs: float) -> dict[str, noise.Effect]:
    """Speed-up of each model over its comparisons at all budgets, Σ base / Σ new; the smallest model comes first."""
    out: dict[str, noise.Effect] = {}
    near = nearest_conditions(table).sort_values("params_b", kind="stable")
    for model, rows in near.groupby("model", observed=True, sort=False):
        parts: list[pd.DataFrame] = []
        old: dict[str, noise.Runs] = {}
        new: dict[str, noise.Runs] = {}
        for row in records(rows):
            both = arms_of(arms, row)
            times = [arm["e2e_s"] for arm in both]
            parts.append(pd.concat(times, axis=1, keys=["base", "new"]).dropna())
            old[row["base"]], new[row["config"]] = (_runs(arm, "e2e_s") for arm in both)
        sums = pd.concat(parts).groupby(level=0, observed=True).sum()
        middle, error, units = stats.log_ratio(sums["base"], sums["new"])
        pooled = noise.effect(middle, error, units, (_pool(old), _pool(new)), between_runs)
        # Fewer problems are enough where the noise between runs is known and larger than that between problems.
        enough = units >= stats.MIN_UNITS or pooled.degrees >= stats.MIN_UNITS - 1
        out[str(model)] = pooled if enough else pooled._replace(degrees=float("nan"))
    return out


def _pool(runs: dict[str, noise.Runs]) -> noise.Runs:
    """All runs of several configurations: one request at several budgets was one run, so each configuration counts once."""
    return noise.Runs(sum(one.number for one in runs.values()), noise.pooled(runs.values())[0])


@dataclass(frozen=True)
class Evidence:
    """The problems of each setting, and what comparisons of them show; each table is computed where it is needed."""

    problems: pd.DataFrame
    """Means for each arm and problem (per_problem)."""
    noise: float = noise.DAY_TO_DAY
    """The noise between runs, where a setting was run once."""

    @cached_property
    def speculation(self) -> pd.DataFrame:
        """Each configuration with speculation, compared to the one without."""
        return speculation(self.problems, self.noise)

    @cached_property
    def tensor_parallel(self) -> pd.DataFrame:
        """Each configuration on several GPUs, compared to the one on the fewest."""
        return tensor_parallel(self.problems, self.noise)

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """The load at which each speculation stops paying."""
        return crossovers(self.speculation)

    @cached_property
    def arms(self) -> Arms:
        """The problems of each setting."""
        return by_arm(self.problems)
