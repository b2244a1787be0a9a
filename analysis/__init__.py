"""What we conclude: tables, figures, a report and a recommendation, from files alone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.data.frame import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`analysis.load` without making every `import analysis` pay for pandas."""
    if name == "load":
        from analysis.data.frame import load  # noqa: PLC0415  # the point of this function

        return load
    raise AttributeError(name)
