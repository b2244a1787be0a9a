"""The emulator's tokenizer is lossless, and chat templates are the models' own."""

from hypothesis import given
from hypothesis import strategies as st

from server.emulator.text.tokenizer import SPECIAL, THINKING_TOKENS, IncrementalDecoder, Tokenizer

TOKENIZER = Tokenizer()


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(st.characters(max_codepoint=127)) | st.text("aZ9 '<|think>\n\r\t.$s"))
def test_the_cache_for_ascii_words_gives_the_same_ids(text: str) -> None:
    assert TOKENIZER.encode(text) == TOKENIZER._encode(text)


@given(st.text(), st.integers(1, 4))
def test_a_stream_of_ids_gives_whole_characters_only(text: str, size: int) -> None:
    """However the ids are split, the decoded pieces together are the text, without extra replacement characters."""
    ids = TOKENIZER.encode(text)
    decoder = IncrementalDecoder(TOKENIZER, skip_special_tokens=False)
    pieces = [decoder.push(ids[at : at + size]) for at in range(0, len(ids), size)]
    assert "".join(pieces) == text


def test_every_special_token_is_one_id() -> None:
    for token in (*SPECIAL, *THINKING_TOKENS):
        assert TOKENIZER.encode(f"a{token}b")[1:-1] == [TOKENIZER.id(token)]


def test_special_tokens_are_hidden_but_thinking_tokens_are_not() -> None:
    ids = TOKENIZER.encode("<|im_start|>think<think>x</think><|im_end|>")
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "think<think>x</think>"


def test_chat_templates() -> None:
    """R1's template opens the thinking, and Qwen2.5's contains its default system text."""
    chat = [{"role": "user", "content": "Hi"}]
    assert TOKENIZER.render_chat(chat, "r1") == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n"
    s1 = TOKENIZER.render_chat(chat, "s1")
    assert s1.startswith("<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.")
    assert s1.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
