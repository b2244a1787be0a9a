"""Turn run folders into tables, figures, a report and a recommendation. This package only reads files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.data.frame import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Provide `analysis.load` without importing pandas on every `import analysis`."""
    if name == "load":
        from analysis.data.frame import load  # noqa: PLC0415  # the purpose of this function

        return load
    raise AttributeError(name)
