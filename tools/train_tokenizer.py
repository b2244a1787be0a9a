"""Train the emulator's vocabulary: `python -m tools.train_tokenizer [OUT.json]`.

The training text is this project's own: the phrase book with its choices and slots filled in, a list of words, and
generated LaTeX. No other text is used, so no other license applies to the result. The same seed gives the same file, byte
for byte. Every digit is one token and text is split as by Qwen2, so that token counts are similar to Qwen2's. This module
does not know models or problems.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from server.emulator.text.phrases import phrase_book, write
from server.emulator.text.tokenizer import SPECIAL, SPLIT, THINKING_TOKENS, VOCABULARY

WORDS = Path(__file__).with_name("words.txt")
VOCABULARY_SIZE = 8192
ATOMS = (
    *"xyzabckmnpqrst", "AB", "BC", "AC", "CD", "ABC", "PQ", "f(x)", "g(x)", "x^2", "x^3", "y^2", "a_n", "n!", "2x", "3x",
    "xy",
)  # fmt: skip
GREEK = (r"\pi", r"\theta", r"\alpha", r"\beta", r"\omega", r"\infty", r"\circ")
LATEX = Path(__file__).with_name("latex.txt").read_text(encoding="utf-8").splitlines()
"""Templates of formulas, in which each `@` stands for another formula."""


def formula(rng: random.Random, depth: int = 2) -> str:
    """A random LaTeX expression."""
    if depth == 0 or rng.random() < 0.3:
        roll = rng.random()
        return str(rng.randrange(200)) if roll < 0.4 else rng.choice(GREEK if roll > 0.9 else ATOMS)
    parts = rng.choice(LATEX).split("@")
    return parts[0] + "".join(formula(rng, depth - 1) + part for part in parts[1:])


def sentences(seed: int, rounds: int) -> Iterator[str]:
    """The training text: each phrase `rounds` times, each word in its forms, and inline and displayed formulas."""
    rng = random.Random(seed)

    def fill(slot: str) -> str:
        return str(rng.randrange(30)) if slot == "n" else f"${formula(rng)}$"

    for phrases in phrase_book().values():
        for phrase in phrases:
            for _ in range(rounds):
                yield write(phrase, rng, fill) + rng.choice([" ", "\n\n", "\n"])
    for word in WORDS.read_text(encoding="utf-8").split():
        # A word of the list occurs about as often as a word that a few phrases use.
        yield f" {word}" * (rounds // 4) + f" {word.capitalize()}" * 3
    for _ in range(rounds * 200):
        text = formula(rng, 3)
        yield rng.choice((f" ${text}$", f" ${text}$,", f" ${text}.$", f"\\[{text}\\]\n", f"\\[\n{text}\n\\]\n\n"))


def train(seed: int = 0, rounds: int = 40) -> str:
    """Train the vocabulary; returns the content of tokenizer.json."""
    tokenizer = HuggingFaceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL) - len(THINKING_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(seed, rounds), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINKING_TOKENS])
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> None:
    """Write the vocabulary to a file."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_tokenizer", description=__doc__)
    parser.add_argument(
        "out", nargs="?", type=Path, default=VOCABULARY, help="where to write (default: the committed file)"
    )
    args = parser.parse_args()
    text = train()
    args.out.write_text(text, encoding="utf-8")
    print(json.dumps({"vocabulary": str(args.out), "merges": len(json.loads(text)["model"]["merges"])}))


if __name__ == "__main__":
    main()
