"""Every table and figure of one study, computed once: what the page, the files and the Markdown summary all show.

Rules: the order here is the order on the page. A part that the data cannot support is empty, and its figure is left out.

Does not know: HTML, files.
"""

from dataclasses import asdict, dataclass

import pandas as pd

from analysis import (
    claims,
    figures_budget,
    figures_front,
    figures_samples,
    figures_serving,
    figures_time,
    optimal,
    pairs,
    samples,
    shapes,
    tables,
)
from analysis.acceptance import acceptance
from analysis.figures import Figure
from analysis.frame import Study
from analysis.optimal import Optima


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
        "parallel_compute": samples.parallel(study.frame),
        "endings": shapes.endings(study.frame),
        "by_subject": shapes.by_kind(study.frame, "subject"),
        "by_level": shapes.by_kind(study.frame, "level"),
        "distributions": shapes.distributions(study.frame),
        "decomposition": shapes.decomposition(study.frame),
        "timelines": shapes.timelines(study),
        "runs": tables.runs_table(study.frame, study.runs),
    }
    evidence = claims.Evidence(problems, made["speculation"], made["tensor_parallel"])
    made["claims"] = pd.DataFrame([asdict(claim) for claim in claims.test(evidence)] if len(summary) else [])
    return Conclusions(made, _figures(made, optima), optima, price_per_gpu_hour)


def _figures(made: dict[str, pd.DataFrame], optima: list[Optima]) -> list[Figure]:
    if made["summary"].empty:
        return []
    return [
        *figures_front.figures(made["summary"], optima),
        *figures_budget.figures(made["summary"], made["endings"]),
        *figures_serving.figures(
            made["speculation"], made["tensor_parallel"], made["cost_variation"], made["acceptance"]
        ),
        *figures_samples.figures(made["parallel_compute"]),
        *figures_time.figures(made["decomposition"], made["distributions"], made["timelines"]),
    ]
