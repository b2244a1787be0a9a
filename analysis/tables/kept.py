"""The tables of a study that several commands need, which are kept between calls (data/cache.py).

This module does not know how they are computed.
"""

import pandas as pd

from analysis.data.frame import Study
from analysis.tables import pairs
from analysis.tables.summary import summary


def settings(study: Study, price_per_gpu_hour: float, slo: dict[str, float]) -> pd.DataFrame:
    """The summary table."""
    parameters = (price_per_gpu_hour, sorted(slo.items()))
    return study.tables.get("summary", lambda: summary(study.frame, price_per_gpu_hour, slo), *parameters)


def problems(study: Study) -> pd.DataFrame:
    """The means by problem of each setting."""
    return study.tables.get("problems", lambda: pairs.per_problem(study.frame))
