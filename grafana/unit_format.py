"""Format numbers as Grafana does: scaled to their unit, with at most four digits.

The module has only the units that the dashboards use, under Grafana's names.
"""

import math
from collections.abc import Callable

LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def _seconds(value: float, decimals: int | None) -> str:
    if value >= 120:
        return f"{value / 60:.1f} min"
    return _scaled(value, SMALL, "s", decimals)


def _scaled(value: float, prefixes: tuple[tuple[float, str], ...], unit: str, decimals: int | None) -> str:
    if value == 0:
        return f"0 {unit}".strip()
    factor, prefix = next(((f, p) for f, p in prefixes if abs(value) >= f), prefixes[-1])
    return f"{_digits(value / factor, None if prefix else decimals)} {prefix}{unit}".strip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


SCALED = {"short": "", "watt": "W", "Bps": "B/s", "hertz": "Hz", "reqps": "req/s", "ops": "/s"}
"""Units that get the prefixes k, M and G, and how each is written."""
OTHERS: dict[str, Callable[[float, int | None], str]] = {
    "s": _seconds,
    "joule": lambda value, decimals: _scaled(value, LARGE if value >= 1 else SMALL, "J", decimals),
    "percent": lambda value, decimals: f"{_digits(value, decimals)} %",
    "percentunit": lambda value, decimals: f"{_digits(value * 100, decimals)} %",
    "currencyUSD": lambda value, decimals: f"${_digits(value, decimals)}",
    "mbytes": lambda value, _: f"{value / 1024:.0f} GiB",
}


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Format a value with its unit. NaN becomes a dash."""
    if math.isnan(value):
        return "–"
    if unit.startswith("suffix:"):
        return _digits(value, decimals) + unit.removeprefix("suffix:")
    if unit in SCALED:
        return _scaled(value, LARGE, SCALED[unit], decimals)
    return OTHERS[unit](value, decimals)
