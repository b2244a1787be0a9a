"""Writes a file so that a reader, or a crash, never sees a part of it."""

from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, then renames it to `path`."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
