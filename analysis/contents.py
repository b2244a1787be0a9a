"""Compute the contents of a report once: all tables, figures and optima, for the page, the files and the Markdown summary.

Figures are in the order of the page. A table for which there is no data is empty, and its figure is left out.

This module does not know HTML or files.
"""

from dataclasses import asdict, dataclass

import pandas as pd

from analysis import claims
from analysis.data.frame import Study
from analysis.figures import budget, pareto, sampling, serving, time
from analysis.figures.base import Figure
from analysis.tables import distributions, optima, pairs, repeated_sampling, summary
from analysis.tables.optima import Optima
from analysis.tables.speculation import acceptance


@dataclass(frozen=True, slots=True)
class Contents:
    """Tables by name, figures in order, and the optima."""

    tables: dict[str, pd.DataFrame]
    figures: list[Figure]
    optima: list[Optima]
    """The optima under each set of conditions, those nearest to the paper's first."""
    price_per_gpu_hour: float

    @property
    def summary(self) -> pd.DataFrame:
        """The summary table."""
        return self.tables["summary"]


def compute(study: Study, price_per_gpu_hour: float) -> Contents:
    """Compute all tables, figures and optima of a study. The price is in dollars."""
    settings = summary.summary(study.frame, price_per_gpu_hour)
    problems = pairs.per_problem(study.frame)
    found = optima.optima(settings)
    tables = {
        "summary": settings,
        "speculation": pairs.speculation(problems),
        "tensor_parallel": pairs.tensor_parallel(problems),
        "cost_variation": pairs.cost_variation(problems),
        "acceptance": acceptance(study),
        "parallel_compute": repeated_sampling.parallel(study.frame),
        "endings": distributions.endings(study.frame),
        "by_subject": distributions.by_kind(study.frame, "subject"),
        "by_level": distributions.by_kind(study.frame, "level"),
        "distributions": distributions.distributions(study.frame),
        "decomposition": distributions.decomposition(study.frame),
        "timelines": distributions.timelines(study),
        "runs": summary.runs_table(study.frame, study.runs),
    }
    data = claims.ClaimData(problems, tables["speculation"], tables["tensor_parallel"])
    tables["claims"] = pd.DataFrame([asdict(claim) for claim in claims.test(data)] if len(settings) else [])
    return Contents(tables, _figures(tables, found), found, price_per_gpu_hour)


def _figures(tables: dict[str, pd.DataFrame], found: list[Optima]) -> list[Figure]:
    if tables["summary"].empty:
        return []
    return [
        *pareto.figures(tables["summary"], found),
        *budget.figures(tables["summary"], tables["endings"]),
        *serving.figures(
            tables["speculation"], tables["tensor_parallel"], tables["cost_variation"], tables["acceptance"]
        ),
        *sampling.figures(tables["parallel_compute"]),
        *time.figures(tables["decomposition"], tables["distributions"], tables["timelines"]),
    ]
