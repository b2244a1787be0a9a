"""Compute the contents of a report once: all tables, figures and optima, for the page, the files and the Markdown summary.

Figures are in the order of the page. A table for which there is no data is empty, and its figure is left out.

This module does not know HTML or files.
"""

from dataclasses import dataclass

import pandas as pd

from analysis import claims
from analysis.data.frame import Study
from analysis.data.setting import varying
from analysis.figures import budget, load, pareto, sampling, serving, time
from analysis.figures.base import Figure
from analysis.noise import DAY_TO_DAY
from analysis.tables import capacity, distributions, kept, optima, pairs, repeated_sampling, summary
from analysis.tables.crossover import best_draft_tokens
from analysis.tables.optima import Optima
from analysis.tables.pairs import Evidence
from analysis.tables.speculation import acceptance, acceptance_by_draft, numbers_of_drafts


@dataclass(frozen=True, slots=True)
class Contents:
    """Tables by name, figures in order, and the optima."""

    tables: dict[str, pd.DataFrame]
    figures: list[Figure]
    optima: list[Optima]
    """The optima under each set of conditions, those nearest to the paper's first."""
    price_per_gpu_hour: float
    evidence: Evidence

    @property
    def summary(self) -> pd.DataFrame:
        """The summary table."""
        return self.tables["summary"]


def compute(study: Study, price_per_gpu_hour: float, between_runs: float = DAY_TO_DAY) -> Contents:
    """Compute all tables, figures and optima of a study. The price is in dollars, the noise between runs a share."""
    slo = study.slo()
    settings = kept.settings(study, price_per_gpu_hour, slo)
    found = optima.optima(settings)
    evidence = Evidence(kept.problems(study), between_runs)
    tables = {
        "summary": settings,
        "loads": capacity.load_points(settings, study.searches, slo, study.attain()),
        "speculation": evidence.speculation,
        "tensor_parallel": evidence.tensor_parallel,
        "cost_variation": pairs.cost_variation(evidence.problems),
        **acceptance(study),
        "acceptance_by_draft": acceptance_by_draft(study),
        "parallel_compute": repeated_sampling.parallel(study.frame),
        "endings": distributions.endings(study.frame),
        "distributions": distributions.distributions(study.frame),
        "decomposition": distributions.decomposition(study.frame),
        "timelines": distributions.timelines(study),
        "runs": summary.runs_table(study.frame, study.runs),
        "claims": claims.of_study(study, evidence),
    }
    drafts = numbers_of_drafts(study)
    crossing = evidence.crossovers
    tables["crossover"] = crossing.assign(draft_tokens=crossing["config"].astype(str).map(drafts))
    tables["draft_tokens"] = best_draft_tokens(tables["speculation"], drafts)
    tables["capacity"] = capacity.capacities(tables["loads"]) if slo else pd.DataFrame()
    figures = _figures(tables, found, slo, between_runs)
    return Contents(tables, figures, found, price_per_gpu_hour, evidence)


def _figures(
    tables: dict[str, pd.DataFrame], found: list[Optima], slo: dict[str, float], between_runs: float
) -> list[Figure]:
    table, endings = tables["summary"], tables["endings"]
    if (table["judged"] == "INVALID").all():  # also without rows: a title is a conclusion
        return []
    if not optima.graded(table):  # without a correct answer, accuracy says nothing
        table, endings = table.assign(accuracy=float("nan")), endings.iloc[:0]
    # A figure shows all data, but a claim is tested under one set of conditions: only what all data says may be a title.
    results = tables["claims"].iloc[: 0 if varying(table) else None].groupby("name")["verdict"]
    verdicts = {str(name): str(group.iloc[0]) for name, group in results if len(set(group)) == 1}
    return [
        *pareto.figures(table, found, between_runs),
        *load.figures(tables["loads"], slo),
        *load.crossover(tables["speculation"], tables["crossover"]),
        *budget.figures(table, endings, verdicts, between_runs),
        *serving.figures(tables, verdicts),
        *sampling.figures(tables["parallel_compute"]),
        *time.figures(tables["decomposition"], tables["distributions"], tables["timelines"]),
    ]
