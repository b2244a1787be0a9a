"""TODO docstring."""

from typing import Any

import msgspec


def read_problems(lines: list[bytes], where: str) -> list[dict[str, Any]]:
    """Rows of a JSONL dataset. Raises ValueError naming file and line."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{where}:{number}: no JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("problem"), str):
            raise ValueError(f"{where}:{number}: lacks `problem`")  # noqa: TRY004 - one error for a bad line
        rows.append(row)
    return rows
