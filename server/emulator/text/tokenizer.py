"""The emulator's tokenizer (a byte-level BPE in Hugging Face's tokenizer.json format) and the chat templates.

Rules: encoding and decoding are lossless for any text, and every special token has one id. Incremental decoding holds
back bytes that do not form a complete UTF-8 character yet, as vLLM's detokenizer does. The committed vocabulary was
trained by `tools/train_tokenizer.py` on this project's own text; `--tokenizer` selects another tokenizer.json. This
module does not know models or problems.
"""

import codecs
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

VOCABULARY = Path(__file__).parent / "vocabulary" / "tokenizer.json"
# skip_special_tokens (the default in vLLM) removes these from decoded text.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)
# These also have ids of their own but stay in decoded text, as in R1's tokenizer.
THINK, END_THINK = "<think>", "</think>"
THINKING_TOKENS = (THINK, END_THINK)
PLAIN = re.compile(rb" ?[A-Za-z]+")
# Qwen2's pattern: contractions, words with one leading symbol, single digits, groups of symbols, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same pattern for ASCII text, in the syntax of Python's `re`.
ASCII_SPLIT = re.compile(
    SPLIT.replace(r"\p{L}", "A-Za-z")
    .replace("]?A-Za-z+", "]?[A-Za-z]+")
    .replace(r"|\p{N}|", "|[0-9]|")
    .replace(r"\p{N}", "0-9"),
    re.ASCII,
)
CACHED_WORDS = 1 << 16
"""Words whose ids are cached. Most words occur often, and a lookup is five times as fast as encoding."""
R1_BEGIN, R1_END, R1_USER, R1_ASSISTANT = SPECIAL[3:]
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


class Tokenizer:
    """Converts text to token ids and back."""

    def __init__(self, path: Path = VOCABULARY) -> None:
        self._library = HuggingFaceTokenizer.from_file(str(path))
        self.vocab_size = self._library.get_vocab_size()
        added = self._library.get_added_tokens_decoder()
        self.special_ids = {token.content: number for number, token in added.items()}
        self.hidden_ids = frozenset(number for number, token in added.items() if token.special)
        self.piece = functools.cache(self._piece)
        """The bytes of one id; empty for ids outside the vocabulary, such as random ids or padding rows."""
        split = json.loads(path.read_bytes())["pre_tokenizer"].get("pretokenizers", [{}])[0].get("pattern")
        self._splits_like_qwen2 = split == {"Regex": SPLIT}
        self._encode_word = functools.lru_cache(CACHED_WORDS)(self._encode)
        # Ids of plain words; the text modes `loop` and `random` use only these.
        self.plain_ids = [i for i in range(self.vocab_size) if PLAIN.fullmatch(self.piece(i))]

    def id(self, special: str) -> int | None:
        """The id of a special token, or None if this vocabulary does not contain it."""
        return self.special_ids.get(special)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens in the text become their ids; no token is added.

        For plain ASCII text the ids of known words come from a cache, with the same result.
        """
        if not self._splits_like_qwen2 or not text.isascii() or "<|" in text or "think>" in text:
            return self._encode(text)
        ids: list[int] = []
        for word in ASCII_SPLIT.findall(text):
            ids += self._encode_word(word)
        return ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def _piece(self, number: int) -> bytes:
        token = self._library.id_to_token(number)
        if token is None:
            return b""
        if token in self.special_ids:
            return token.encode()
        return bytes(BYTE_OF[character] for character in token)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids. Bytes that are not valid UTF-8 become U+FFFD."""
        hidden = self.hidden_ids if skip_special_tokens else frozenset()
        return b"".join(self.piece(i) for i in ids if i not in hidden).decode("utf-8", errors="replace")

    def render_chat(self, messages: Sequence[Mapping[str, str]], style: str, *, continues: bool = False) -> str:
        """The prompt that the model's chat template makes of a chat. `style` is the `prompt` of a model preset.

        With `continues`, the last message is the beginning of the answer and is not closed.
        """
        render = RENDER.get(style, _render_chatml_thinking)
        if continues and messages:
            return render(messages[:-1]).removesuffix(f"{THINK}\n") + messages[-1]["content"]
        return render(messages)


class IncrementalDecoder:
    """Decodes the ids of one output as they arrive."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.hidden_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete.

        The bytes of an incomplete character are held back; bytes that cannot form a character become U+FFFD.
        """
        return self._utf8.decode(b"".join(self._tokenizer.piece(i) for i in ids if i not in self._hidden))


def _byte_alphabet() -> dict[str, int]:
    """The byte for each printable character that byte-level BPE writes in its place (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _render_r1(messages: Sequence[Mapping[str, str]]) -> str:
    """DeepSeek-R1's template: plain system text first, thinking removed from earlier answers, thinking opened."""
    parts = [R1_BEGIN, *(m["content"] for m in messages if m["role"] == "system")]
    for message in messages:
        if message["role"] == "user":
            parts += R1_USER, message["content"]
        elif message["role"] == "assistant":
            parts += R1_ASSISTANT, message["content"].rpartition(END_THINK)[2], R1_END
    return "".join([*parts, R1_ASSISTANT, f"{THINK}\n"])


def _chatml(messages: Sequence[Mapping[str, str]]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def _render_s1(messages: Sequence[Mapping[str, str]]) -> str:
    """Qwen2.5's template, which s1.1 uses: a default system text; the model itself opens the thinking."""
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": QWEN_SYSTEM}, *messages]
    return _chatml(messages) + "<|im_start|>assistant\n"


def _render_chatml_thinking(messages: Sequence[Mapping[str, str]]) -> str:
    """ChatML with the thinking opened, for all other reasoning models."""
    return _chatml(messages) + f"<|im_start|>assistant\n{THINK}\n"


RENDER = {"r1": _render_r1, "s1": _render_s1}
