"""Every table and figure of one study, computed once: what the page, the files and the Markdown summary all show.

Rules: the order here is the order on the page. A part that the data cannot support is empty, and its figure is left out.

Does not know: HTML, files.
"""

from dataclasses import asdict, dataclass

import pandas as pd

from analysis import claims
from analysis.data.frame import Study
from analysis.figures import budget, pareto, sampling, serving, time
from analysis.figures.base import Figure
from analysis.tables import distributions, pairs, repeated_sampling
from analysis.tables import optima as optimal
from analysis.tables import summary as tables
from analysis.tables.optima import Optima
from analysis.tables.speculation import acceptance


@dataclass(frozen=True, slots=True)
class Conclusions:
    """Tables by name, figures in order, and the two optima."""

    tables: dict[str, pd.DataFrame]
    figures: list[Figure]
    optima: list[Optima]
    """Under each set of conditions, nearest to the paper's first."""
    price_per_gpu_hour: float

    @property
    def summary(self) -> pd.DataFrame:
        """The table behind the page."""
        return self.tables["summary"]


def conclude(study: Study, price_per_gpu_hour: float) -> Conclusions:
    """Compute everything."""
    summary = tables.summary(study.frame, price_per_gpu_hour)
    problems = pairs.per_problem(study.frame)
    optima = optimal.optima(summary)
    made = {
        "summary": summary,
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
        "runs": tables.runs_table(study.frame, study.runs),
    }
    evidence = claims.ClaimData(problems, made["speculation"], made["tensor_parallel"])
    made["claims"] = pd.DataFrame([asdict(claim) for claim in claims.test(evidence)] if len(summary) else [])
    return Conclusions(made, _figures(made, optima), optima, price_per_gpu_hour)


def _figures(made: dict[str, pd.DataFrame], optima: list[Optima]) -> list[Figure]:
    if made["summary"].empty:
        return []
    return [
        *pareto.figures(made["summary"], optima),
        *budget.figures(made["summary"], made["endings"]),
        *serving.figures(
            made["speculation"], made["tensor_parallel"], made["cost_variation"], made["acceptance"]
        ),
        *sampling.figures(made["parallel_compute"]),
        *time.figures(made["decomposition"], made["distributions"], made["timelines"]),
    ]
