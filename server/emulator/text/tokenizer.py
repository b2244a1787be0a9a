"""The emulator's tokenizer: a byte-level BPE in Hugging Face's tokenizer.json format, and the chat templates.

Rules: lossless on any text and any bytes; each special token is one id; `decode_incremental` holds back what is not
yet whole UTF-8, as vLLM's detokenizer does. The committed vocabulary was trained by `train_tokenizer.py` on this
project's own text; any other tokenizer.json will do (`--tokenizer`). Knows nothing of models or problems.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Library

VOCABULARY = Path(__file__).parent / "vocabulary" / "tokenizer.json"
# Hidden by skip_special_tokens (vLLM's default) ...
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)
# ... and ids of their own that stay in the text, as in R1's tokenizer.
MARKS = ("<think>", "</think>")
PLAIN = re.compile(rb" ?[A-Za-z]+")
# Qwen2's way of cutting: contractions, words with one leading sign, single digits, runs of signs, line ends, spaces.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The same for text that is ASCII, in the standard library's words.
ASCII_SPLIT = re.compile(
    SPLIT.replace(r"\p{L}", "A-Za-z")
    .replace("]?A-Za-z+", "]?[A-Za-z]+")
    .replace(r"|\p{N}|", "|[0-9]|")
    .replace(r"\p{N}", "0-9"),
    re.ASCII,
)
KEPT_WORDS = (
    1 << 16
)  # pieces remembered with their ids: words come again, and looking up is five times as fast
R1_BEGIN, R1_END, R1_USER, R1_ASSISTANT = SPECIAL[3:]
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


class Tokenizer:
    """Text to ids and back."""

    def __init__(self, path: Path = VOCABULARY) -> None:
        self.path = path
        self._library = Library.from_file(str(path))
        self.vocab_size = self._library.get_vocab_size()
        added = self._library.get_added_tokens_decoder()
        self.special_ids = {token.content: number for number, token in added.items()}
        self.hidden_ids = frozenset(number for number, token in added.items() if token.special)
        self._pieces: dict[int, bytes] = {}
        split = json.loads(path.read_bytes())["pre_tokenizer"].get("pretokenizers", [{}])[0].get("pattern")
        self._words: dict[str, list[int]] | None = {} if split == {"Regex": SPLIT} else None
        # Ids whose text is plain: what the modes without meaning are made of.
        self.plain_ids = [i for i in range(self.vocab_size) if PLAIN.fullmatch(self.piece(i))]

    def id(self, special: str) -> int | None:
        """The id of a special token; None where this vocabulary lacks it."""
        return self.special_ids.get(special)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens written out become their ids. Nothing is added.

        Plain ASCII takes a short way of the same result: its pieces are looked up, the library sees only new ones.
        """
        if self._words is None or not text.isascii() or "<|" in text or "think>" in text:
            return self._encode(text)
        ids: list[int] = []
        words = self._words
        for word in ASCII_SPLIT.findall(text):
            known = words.get(word)
            if known is None:
                known = self._encode(word)
                if len(words) < KEPT_WORDS:
                    words[word] = known
            ids += known
        return ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, number: int) -> bytes:
        """The bytes that one id stands for; an id beyond the vocabulary (a random one, a padding row) stands for none."""
        piece = self._pieces.get(number)
        if piece is None:
            token = self._library.id_to_token(number)
            if token is None:
                piece = b""
            elif token in self.special_ids:
                piece = token.encode()
            else:
                piece = bytes(BYTE_OF[character] for character in token)
            self._pieces[number] = piece
        return piece

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of whole ids; bytes that are no UTF-8 become U+FFFD."""
        hidden = self.hidden_ids if skip_special_tokens else frozenset()
        return b"".join(self.piece(i) for i in ids if i not in hidden).decode("utf-8", errors="replace")

    def decoder(self, *, skip_special_tokens: bool = True) -> "IncrementalDecoder":
        """A decoder of one stream."""
        return IncrementalDecoder(self, skip_special_tokens=skip_special_tokens)

    def decode_incremental(
        self, pending: bytes, ids: Sequence[int], *, skip_special_tokens: bool = True
    ) -> tuple[str, bytes]:
        """The text that `ids` add after the bytes held back so far, and the bytes held back now.

        A character still lacking bytes is held; bytes that can no longer become one come out as U+FFFD.
        """
        hidden = self.hidden_ids if skip_special_tokens else frozenset()
        data = pending + b"".join(self.piece(i) for i in ids if i not in hidden)
        whole = len(data) - _incomplete(data)
        return data[:whole].decode("utf-8", errors="replace"), data[whole:]

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], style: str, *, continues: bool = False
    ) -> str:
        """The prompt of a chat, as the chat template of the model writes it; `style` is a preset's `prompt`.

        Where it `continues`, the last message is the beginning of the answer and is left open.
        """
        render = RENDER.get(style, _render_chatml_thinking)
        if continues and messages:
            return render(messages[:-1]).removesuffix("<think>\n") + messages[-1]["content"]
        return render(messages)


class IncrementalDecoder:
    """One stream's text as its ids arrive."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._pending = b""

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids complete."""
        text, self._pending = self._tokenizer.decode_incremental(
            self._pending, ids, skip_special_tokens=self._skip
        )
        return text


def _incomplete(data: bytes) -> int:
    """How many bytes at the end begin a character that further bytes could still complete (0 to 3)."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation byte: look further back for its lead
            continue
        needed = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if needed > back else 0
    return 0


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: this is the way back (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _render_r1(messages: Sequence[Mapping[str, str]]) -> str:
    """DeepSeek-R1's: the system text bare in front, thinking dropped from earlier answers, <think> opened."""
    parts = [R1_BEGIN, *(m["content"] for m in messages if m["role"] == "system")]
    for message in messages:
        if message["role"] == "user":
            parts += R1_USER, message["content"]
        elif message["role"] == "assistant":
            parts += R1_ASSISTANT, message["content"].rpartition("</think>")[2], R1_END
    return "".join([*parts, R1_ASSISTANT, "<think>\n"])


def _chatml(messages: Sequence[Mapping[str, str]]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def _render_s1(messages: Sequence[Mapping[str, str]]) -> str:
    """Qwen2.5's, which s1.1 keeps: a system text of its own where none is given; the model opens its thinking."""
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": QWEN_SYSTEM}, *messages]
    return _chatml(messages) + "<|im_start|>assistant\n"


def _render_chatml_thinking(messages: Sequence[Mapping[str, str]]) -> str:
    """ChatML with the thinking opened, for any other reasoning model."""
    return _chatml(messages) + "<|im_start|>assistant\n<think>\n"


RENDER = {"r1": _render_r1, "s1": _render_s1}
