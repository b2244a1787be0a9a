"""Makes prompts of random words: `synthetic:input=512,output=256`, or with `512±128` for lengths from 384 to 640.

The lengths are uniformly distributed and drawn by the seed. A prompt has one common English word for each token of its length;
`loadgen.target.prompt_sizes` then makes its length exact where the server has a tokenizer. The length of the reply is imposed
with `ignore_eos`, so that nothing is said about the model. No two prompts have a beginning in common that a prefix cache could
use, except by chance.

This module does not know the options of a run or the server.
"""

import random
from pathlib import Path

from loadgen.option_types import Length, Synthetic
from loadgen.plan.problems import Problem

WORDS = (Path(__file__).parents[1] / "data" / "words.txt").read_text().split()
"""Common nouns, nearly all of which are one token in the vocabularies of today's models."""


def problems(spec: Synthetic, count: int, seed: int) -> list[Problem]:
    """Return `count` prompts with one word for each token. A larger count begins with the prompts of a smaller one."""
    found = []
    for number in range(count):
        rng = random.Random(f"{seed}/synthetic/{number}")
        output, tokens = _draw(spec.output, rng), _draw(spec.input, rng)
        text = " ".join(rng.choices(WORDS, k=tokens))
        found.append(Problem(f"synthetic/{number}", text, output_tokens=output, input_tokens=tokens))
    return found


def _draw(length: Length, rng: random.Random) -> int:
    return rng.randint(length.mean - length.spread, length.mean + length.spread)
