"""Gets files of data sets from the Hugging Face Hub, from its client's cache where possible.

What the cache holds is used without asking the Hub, so that all runs on a machine have the same revision and need no network.
Where the Hub does not give a data set, a UsageError says why and what to do.

This module does not know what a file contains.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from loadgen import network
from loadgen.errors import UsageError
from loadgen.plan.data_files import MAX_BYTES, files_of, paths_of


class HubFiles(NamedTuple):
    """Files of one revision of a data set."""

    paths: list[Path]
    revision: str
    """The commit, which identifies the content."""


def one_file(repository: str, filename: str) -> HubFiles:
    """Return one file of a data set. Raises UsageError."""
    import huggingface_hub as hub  # noqa: PLC0415  The import takes 0.4 s.

    path = hub.try_to_load_from_cache(repository, filename, repo_type="dataset")
    if not isinstance(path, str):
        with _hub_asked(repository):
            path = hub.hf_hub_download(repository, filename, repo_type="dataset")
    return HubFiles([Path(path)], _revision(path, filename))


def split(name: str) -> HubFiles:
    """Return the files of `OWNER/NAME[@REVISION][:PART]`; `data_files.files_of` says what a part can be. Raises UsageError."""
    repository, _, part = name.partition(":")
    repository, _, revision = repository.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"--dataset hf:{name}: write hf:OWNER/NAME:SPLIT, for example hf:openai/gsm8k:main/test")
    found = _cached(repository, part, revision or None)
    if found is None:
        with _hub_asked(repository):
            found = _fetched(repository, part, revision or None)
    return found


def _cached(repository: str, part: str, revision: str | None) -> HubFiles | None:
    import huggingface_hub as hub  # noqa: PLC0415

    try:
        folder = Path(hub.snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
        return HubFiles(paths_of(folder, f"hf:{repository}", part), folder.name)
    except (OSError, ValueError, UsageError):  # the files are not in the cache, or not all of them
        return None


def _fetched(repository: str, part: str, revision: str | None) -> HubFiles:
    import huggingface_hub as hub  # noqa: PLC0415

    info = hub.HfApi().dataset_info(repository, revision=revision, files_metadata=True, timeout=20)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    names = files_of(f"hf:{repository}", list(sizes), part)
    if sum(sizes[name] for name in names) > MAX_BYTES:
        raise UsageError(
            f"--dataset hf:{repository}: {part or names[0]} has more than {MAX_BYTES >> 30} GiB: name a smaller part"
        )
    paths = [hub.hf_hub_download(repository, name, repo_type="dataset", revision=revision) for name in names]
    revisions = {_revision(path, name) for path, name in zip(paths, names, strict=True)}
    if len(revisions) > 1:
        raise UsageError(
            f"--dataset hf:{repository}: the data set was changed while it was fetched: repeat the command"
        )
    return HubFiles([Path(path) for path in paths], revisions.pop())


def _revision(path: str, name: str) -> str:
    """The commit of a file in the cache, which is the name of the folder that its path is relative to."""
    return Path(path).parts[-1 - len(Path(name).parts)]


@contextmanager
def _hub_asked(repository: str) -> Iterator[None]:
    """Raise UsageError where the Hub cannot be reached or does not give the data set to this block."""
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.errors import GatedRepoError  # noqa: PLC0415

    try:
        first_hop = network.proxy_url(constants.ENDPOINT) or urlsplit(constants.ENDPOINT)
        with socket.create_connection(network.address(first_hop), timeout=5):
            pass  # the Hub's client would try for half a minute
        yield
    except GatedRepoError:
        page = f"{constants.ENDPOINT}/datasets/{repository}"
        raise UsageError(f"{repository} has conditions: accept them at {page}, and set HF_TOKEN") from None
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise UsageError(
            f"{repository} can't be fetched from the Hub ({type(error).__name__}: {reason}): "
            "use a file (--dataset FILE) or --dataset sample, which needs no network"
        ) from None
