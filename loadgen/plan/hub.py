"""Data sets on the Hugging Face Hub: those that have a name of their own, and how files are fetched.

The hash of a published data set is either written here, for data that was compared with its source, or it is that of the first
use on this machine. A data set whose content differs from it is refused, because results on the two could not be compared.

What the cache of the Hub's client holds is used without asking the Hub, so that all runs on a machine have the same revision
and need no network. Where the Hub does not give a data set, a UsageError says why and what to do.

This module does not know how a file is read.
"""

import json
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from loadgen import network
from loadgen.errors import UsageError
from loadgen.files import cache_folder, write_atomically
from loadgen.plan.data_files import MAX_BYTES, files_of, paths_of

MATH500_SHA256 = "bf0e84bdbc5184a626a5718f93a45ad73f84a7c067969c96289dd3f5dec707dd"
"""`datasets.canonical_hash` of the 500 rows of MATH-500, from OpenAI's prm800k/math_splits/test.jsonl."""
LETTERS = "ABCD"

Fields = Mapping[str, Any]


class Published(NamedTuple):
    """One data set on the Hub."""

    file: str
    """As `split` takes it: `OWNER/NAME:FILE`."""
    convert: Callable[[int, Fields], dict[str, Any]] | None = None
    """Makes the fields of a problem of the fields of a row; None where they are those of MATH-500."""
    sha256: str | None = None


def _gsm8k(number: int, row: Fields) -> dict[str, Any]:
    return {
        "problem": row["question"],
        "answer": row["answer"],
        "subject": "Grade School Math",
        "unique_id": f"gsm8k/test/{number}",
    }


def _aime(year: int) -> Callable[[int, Fields], dict[str, Any]]:
    def convert(number: int, row: Fields) -> dict[str, Any]:
        return {
            "problem": row["problem"],
            "answer": str(int(row["answer"])),
            "solution": row.get("solution"),
            "subject": "AIME",
            "unique_id": f"aime/{year}/{row.get('id', number)}",
        }

    return convert


def _gpqa(number: int, row: Fields) -> dict[str, Any]:
    """A question with four choices, whose order depends on the number of the row alone."""
    right = str(row["Correct Answer"]).strip()
    choices = [right, *(str(row[f"Incorrect Answer {n}"]).strip() for n in (1, 2, 3))]
    random.Random(number).shuffle(choices)
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return {
        "problem": f"{str(row['Question']).strip()}\n\n{lines}\n\nAnswer with the letter of the correct choice.",
        "answer": LETTERS[choices.index(right)],
        "subject": row.get("High-level domain"),
        "unique_id": f"gpqa/diamond/{number}",
    }


PUBLISHED = {
    "math500": Published("HuggingFaceH4/MATH-500:test.jsonl", sha256=MATH500_SHA256),
    "gsm8k": Published("openai/gsm8k:main/test-00000-of-00001.parquet", _gsm8k),
    "aime": Published("HuggingFaceH4/aime_2024:data/train-00000-of-00001.parquet", _aime(2024)),
    "aime2025": Published("math-ai/aime25:test.jsonl", _aime(2025)),
    "gpqa": Published("Idavidrein/gpqa:gpqa_diamond.csv", _gpqa),
}


def check_hash(name: str, path: Path, digest: str) -> None:
    """Raise UsageError where the content is not that of the hash. The first hash of a data set without one is written down."""
    file, hint = cache_folder() / "datasets.json", "delete it and try again"
    known, title = PUBLISHED[name].sha256, "MATH-500" if name == "math500" else name
    if known is None:
        try:
            seen = json.loads(file.read_text())
        except (OSError, ValueError):
            seen = {}
        known = str(seen.setdefault(name, digest)) if isinstance(seen, dict) else digest
        title, hint = f"{name} of its first use", f"{hint}, or delete {file} if the new content is right"
        with suppress(OSError):  # without a cache, there is no first use to compare with
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(seen, indent=1).encode())
    if digest != known:
        raise UsageError(f"{path} is not {title} (its hash is {digest[:12]}…, not {known[:12]}…): {hint}")


def split(name: str) -> tuple[list[Path], str]:
    """Return the files of `OWNER/NAME[@REVISION][:PART]`, and their commit, which identifies the content.

    `data_files.files_of` says what a part can be. Raises UsageError.
    """
    repository, _, part = name.partition(":")
    repository, _, revision = repository.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"--dataset hf:{name}: write hf:OWNER/NAME:SPLIT, for example hf:openai/gsm8k:main/test")
    found = _cached(repository, part, revision or None)
    if found is None:
        with _hub_asked(repository):
            found = _fetched(repository, part, revision or None)
    return found


def _cached(repository: str, part: str, revision: str | None) -> tuple[list[Path], str] | None:
    import huggingface_hub as hub  # noqa: PLC0415

    try:
        folder = Path(hub.snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
        return paths_of(folder, f"hf:{repository}", part), folder.name
    except (OSError, ValueError, UsageError):  # the files are not in the cache, or not all of them
        return None


def _fetched(repository: str, part: str, revision: str | None) -> tuple[list[Path], str]:
    import huggingface_hub as hub  # noqa: PLC0415

    info = hub.HfApi().dataset_info(repository, revision=revision, files_metadata=True, timeout=20)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    names = files_of(f"hf:{repository}", list(sizes), part)
    if sum(sizes[name] for name in names) > MAX_BYTES:
        too_large = f"{part or names[0]} has more than {MAX_BYTES >> 30} GiB"
        raise UsageError(f"--dataset hf:{repository}: {too_large}: name a smaller part")
    paths = [Path(hub.hf_hub_download(repository, name, repo_type="dataset", revision=revision)) for name in names]
    # The commit of a file in the cache is the name of the folder that its path is relative to.
    revisions = {path.parts[-1 - len(Path(name).parts)] for path, name in zip(paths, names, strict=True)}
    if len(revisions) > 1:
        hint = "the data set was changed while it was fetched: repeat the command"
        raise UsageError(f"--dataset hf:{repository}: {hint}")
    return paths, revisions.pop()


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
        failed = f"{repository} can't be fetched from the Hub ({type(error).__name__}: {reason})"
        hint = "use a file (--dataset FILE) or --dataset sample, which needs no network"
        raise UsageError(f"{failed}: {hint}") from None
