"""`chunks.bin` keeps every arrival time to the microsecond in at most 4 bytes per token, and survives a crash."""

from contextlib import closing
from itertools import accumulate
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from loadgen.chunks import CHUNKS, ChunkLog, Chunks, drop_torn_frame, encode_frame, read_chunks
from loadgen.clock import RunClock
from loadgen.record import RECORDS, Record, read_records
from loadgen.run.merge import merge_workers

FRAMES = st.lists(
    st.builds(
        lambda seq, pairs: Chunks(seq, list(accumulate(gap for gap, _ in pairs)), [n for _, n in pairs]),
        st.integers(0, 2**40),
        st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)), max_size=30),
    ),
    max_size=5,
)


def write(path: Path, frames: list[Chunks]) -> bytes:
    data = b"".join(encode_frame(*chunks) for chunks in frames)
    path.write_bytes(data)
    return data


@given(FRAMES)
def test_frames_are_read_back_as_written(tmp_path_factory: object, frames: list[Chunks]) -> None:
    path = tmp_path_factory.mktemp("chunks") / "chunks.bin"  # type: ignore[attr-defined]
    write(path, frames)
    assert list(read_chunks(path)) == frames


def test_an_incomplete_last_frame_is_left_out(tmp_path: Path) -> None:
    """A crash while a frame is written loses that frame and no other, wherever the frame ends."""
    frames = [Chunks(1, [10, 20], [1, 4]), Chunks(300, [5_000, 90_000], [1, 1])]
    path = tmp_path / "chunks.bin"
    whole = write(path, frames)
    first = len(encode_frame(*frames[0]))
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert list(read_chunks(path)) == frames[:1]


def test_reading_stops_at_a_damaged_frame(tmp_path: Path) -> None:
    path = tmp_path / "chunks.bin"
    data = bytearray(write(path, [Chunks(1, [10], [1]), Chunks(2, [20], [1])]))
    data[-6] ^= 1
    path.write_bytes(data)
    assert [chunks.seq for chunks in read_chunks(path)] == [1]


def test_a_token_takes_at_most_4_bytes(tmp_path: Path) -> None:
    """The limit holds at 1 to 130 ms per token, with and without speculation, for answers of at least 32 tokens."""
    for gap_us, per_chunk, events in [
        (1_000, 1, 32),
        (13_000, 1, 32),
        (130_000, 1, 32),
        (25_000, 4, 16),
        (900_000, 1, 100),
    ]:
        data = encode_frame(100_000, [3_000_000_000 + gap_us * i for i in range(events)], [per_chunk] * events)
        assert len(data) / (per_chunk * events) <= 4


def test_the_log_keeps_microseconds_of_model_time(tmp_path: Path) -> None:
    """Positions are rounded, not gaps: the last of 10,000 events is still exact to 1 µs."""
    clock = RunClock(start_ns=5_000, scale=20.0)
    arrivals = [5_000 + 333_333 * i for i in range(1, 10_001)]
    with closing(ChunkLog(tmp_path / "chunks.bin")) as log:
        log.append(7, arrivals, [1] * 10_000, clock)
    (chunks,) = read_chunks(tmp_path / "chunks.bin")
    assert chunks.seq == 7
    assert chunks.arrival_us[-1] == round(333_333 * 10_000 * 20 / 1000)


def test_the_log_appends_to_an_existing_file(tmp_path: Path) -> None:
    """A resumed run continues in the same file."""
    for seq in (1, 2):
        with closing(ChunkLog(tmp_path / "chunks.bin")) as log:
            log.append(seq, [10**6], [1], RunClock(0))
    assert [chunks.seq for chunks in read_chunks(tmp_path / "chunks.bin")] == [1, 2]


def test_an_incomplete_frame_is_removed_so_that_later_frames_are_read(tmp_path: Path) -> None:
    path = tmp_path / CHUNKS
    write(path, [Chunks(1, [10], [1]), Chunks(2, [20], [1])])
    path.write_bytes(path.read_bytes()[:-3])
    assert drop_torn_frame(path) == len(encode_frame(2, [20], [1])) - 3
    with closing(ChunkLog(path)) as log:
        log.append(3, [10**6], [1], RunClock(0))
    assert [chunks.seq for chunks in read_chunks(path)] == [1, 3]


def test_merging_the_files_of_workers_again_after_a_crash_duplicates_nothing(tmp_path: Path) -> None:
    """One part was appended but not yet removed, and every file has an incomplete end."""

    def line(seq: int) -> bytes:
        record = Record(run_id="r", seq=seq, problem_id="p", budget=1, due_s=0.0, outcome="ok")
        return msgspec.json.encode(record) + b"\n"

    (tmp_path / RECORDS).write_bytes(line(0) + line(1))
    (tmp_path / "records.0.jsonl").write_bytes(line(1) + line(2) + b'{"seq":9')
    (tmp_path / "records.1.jsonl").write_bytes(line(3))
    (tmp_path / CHUNKS).write_bytes(encode_frame(0, [1], [1]) + b"\x7f torn")
    (tmp_path / "chunks.0.bin").write_bytes(encode_frame(1, [1], [1]) + encode_frame(2, [2], [1])[:-1])
    (tmp_path / "chunks.1.bin").write_bytes(encode_frame(3, [3], [1]))
    for _ in range(2):
        merge_workers(tmp_path)
        assert [record.seq for record in read_records(tmp_path / RECORDS)] == [0, 1, 2, 3]
        assert [chunks.seq for chunks in read_chunks(tmp_path / CHUNKS)] == [0, 1, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHUNKS, RECORDS]


def test_a_hole_of_zeros_ends_the_file(tmp_path: Path) -> None:
    """A file system can fill a file with zeros when the power fails. The checksum of an empty body is 0, too."""
    path = tmp_path / "chunks.bin"
    whole = encode_frame(3, [10, 20], [1, 2])
    path.write_bytes(whole + bytes(512) + whole)
    assert [chunks.seq for chunks in read_chunks(path)] == [3]
    assert drop_torn_frame(path) == 512 + len(whole)
    assert path.read_bytes() == whole
