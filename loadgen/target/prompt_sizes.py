"""Gives synthetic prompts exactly the length in tokens that was asked for, with the server's own tokenizer (`/tokenize` of vLLM).

The length is that of the whole prompt, with the chat template or the raw template, as the server counts it in `usage`. Words are
added and removed until the count is right. Where a server has no tokenizer, a prompt has one common word for each token, and a
message says that the lengths are approximate.

This module does not know how the prompts are made.
"""

import asyncio
import dataclasses
import json
import random
from collections.abc import Awaitable, Callable

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.datasets import Dataset, canonical_hash
from loadgen.plan.problems import Problem
from loadgen.plan.prompts import Style
from loadgen.plan.synthetic import WORDS
from loadgen.target.control_api import ControlApi
from loadgen.terminal import say

ROUNDS = 40
"""Questions for one prompt. Words of one token need two or three."""
AT_ONCE = 8
LIMIT_S = 300.0
"""For all prompts together."""

CountTokens = Callable[[str], Awaitable[int | None]]
"""Returns the number of tokens of a prompt as the server counts it, or None where it does not say it."""


def fitted(dataset: Dataset, options: RunOptions, style: Style, model: str, api: ControlApi) -> Dataset:
    """Return the data set with prompts of the exact length. Raises UsageError where that cannot be done."""
    url = f"{api.root}/tokenize"

    async def count_tokens(text: str) -> int | None:
        body = budgets.body(options, style.as_written, text, 1)
        fields = {name: body[name] for name in ("messages", "prompt", "add_special_tokens") if name in body}
        said = (await api.fetch(url, json.dumps({"model": model, **fields}).encode())).json()
        found = said.get("count") if isinstance(said, dict) else None
        return found if isinstance(found, int) and 0 <= found < 1 << 30 else None

    try:
        problems = asyncio.run(_fit_all(dataset.problems, count_tokens, url))
    except TimeoutError:
        needed = f"more than {LIMIT_S:g} s for {len(dataset.problems)} prompts"
        raise UsageError(f"{url} needs {needed}: give fewer --problems") from None
    if problems is None:
        approximate = "the lengths of the prompts are approximate, one word for each token"
        say(f"warning: {api.root} has no /tokenize: {approximate}")
        return dataclasses.replace(dataset, facts={"exact_tokens": False})
    sha256 = canonical_hash(problems)
    return dataclasses.replace(dataset, problems=problems, sha256=sha256, facts={"exact_tokens": True})


async def _fit_all(problems: list[Problem], count_tokens: CountTokens, url: str) -> list[Problem] | None:
    """The prompts with their exact lengths; None where the server has no tokenizer."""
    if await count_tokens("time") is None:
        return None
    slots = asyncio.Semaphore(AT_ONCE)
    async with asyncio.timeout(LIMIT_S):
        return list(await asyncio.gather(*(_fit(problem, count_tokens, slots, url) for problem in problems)))


async def _fit(problem: Problem, count_tokens: CountTokens, slots: asyncio.Semaphore, url: str) -> Problem:
    """Return the problem with a prompt of the exact length. Raises UsageError."""
    words, rng, wanted = problem.problem.split(), random.Random(problem.unique_id), problem.input_tokens or 0
    async with slots:
        for _ in range(ROUNDS):
            count = await count_tokens(" ".join(words))
            if count is None:
                raise UsageError(f"{url} stopped answering while prompts were made: check the server")
            if count == wanted:
                return dataclasses.replace(problem, problem=" ".join(words))
            if count < wanted:
                words += rng.choices(WORDS, k=wanted - count)
            elif len(words) > 1:
                del words[-min(count - wanted, len(words) - 1) :]
            else:
                break
    least = f"the template and one word have {count}"
    raise UsageError(f"--dataset: no prompt of {wanted} tokens can be made ({least}): give a larger input")
