"""A file is written completely or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.files import write_atomically


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")

    def parts() -> Iterator[bytes]:
        yield b"ne"
        assert path.read_bytes() == b"old"
        yield b"w"

    write_atomically(path, parts(), sync=sync)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")

    def parts() -> Iterator[bytes]:
        yield b"ne"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, parts())
    assert path.read_bytes() == b"old"
