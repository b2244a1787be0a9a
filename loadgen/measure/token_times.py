"""Times between tokens and between chunks of a whole run, from `chunks.bin`.

The values of one request depend on each other, so the intervals come from `loadgen.measure.clusters`.

This module does not know the records; what it needs of them is passed in.
"""

from collections.abc import Collection, Iterator
from operator import sub, truediv
from pathlib import Path
from typing import Any

from loadgen.chunks import CHUNKS, read_chunks
from loadgen.measure.clusters import Cluster, describe_clusters
from loadgen.measure.dependence import Load
from loadgen.measure.quantiles import describe


def describe_token_times(
    folder: Path,
    mean_tokens: dict[int, float],
    first: float,
    last: float,
    *,
    load: Load = "alone",
    clumped: Collection[int] = (),
    failed_share: float = 0.0,
) -> dict[str, Any]:
    """Describe `itl_s` (one value per token) and `inter_chunk_s` (one value per chunk) of the measured requests.

    `mean_tokens` gives the mean number of tokens in a chunk by `seq`, for requests whose chunks have unknown sizes. The
    measured requests are those with `seq` from `first` up to `last` - 1. `clumped` is the `seq` of the requests whose chunks
    arrived in clumps: their gaps were lost on the way and are left out. In `with_failures` of `itl_s`, a failed
    request counts as infinitely slow for as many tokens as a mean request has.
    """
    path = folder / CHUNKS

    def clusters() -> Iterator[tuple[Cluster, Cluster]]:
        for chunks in read_chunks(path) if path.exists() else ():
            if not first <= chunks.seq < last or chunks.seq in clumped:
                continue
            gaps_us = list(map(sub, chunks.arrival_us[1:], chunks.arrival_us))
            counts: list[float] = [*chunks.tokens[1:]]
            if (mean := mean_tokens.get(chunks.seq)) is not None:
                counts = [mean] * len(counts)
            gaps = Cluster(gaps_us)
            if counts.count(1) == len(counts):
                yield gaps, gaps
            else:
                yield Cluster(list(map(truediv, gaps_us, counts)), counts), gaps

    found = describe_clusters(clusters, 1e-6, load, failed_share)
    itl, inter_chunk = found or (describe([]), describe([]))
    inter_chunk.pop("with_failures", None)  # nothing is required of raw gaps
    return {"itl_s": itl, "inter_chunk_s": inter_chunk}
