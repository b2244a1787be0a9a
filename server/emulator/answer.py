"""From tokens to the bytes of an answer: chunks of a stream, or one JSON body, key for key as recorded from vLLM.

Rules: everything constant in a request's chunks is rendered once; a chunk is a few bytes joined. Text is held back where
a stop string could begin or a character is incomplete, while its tokens are counted at once. Tests compare the keys and
chunk kinds with the recorded streams. Does not know sockets or time.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from server.emulator.ask import Ask
from server.emulator.engine import Stream

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


class Decoder(Protocol):
    """Ids in, the text they complete out."""

    def push(self, ids: Sequence[int], /) -> str:
        """The text these ids complete."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between releases and flags in the bytes of an answer."""

    model: str
    fingerprint: str
    reasoning_parser: bool
    reasoning_key: str = "reasoning"
    usage_details: bool = True
    """0.32 says completion_tokens_details in continuous usage and final reasoning counts; 0.26 does not."""
    prompt_details: bool = False
    stream_interval: int = 1
    null_usage: bool = False
    """0.7.3 writes `"usage":null` into chunks where none was asked."""


@dataclass(slots=True, eq=False)
class Choice:
    """One sequence of an answer."""

    index: int
    stream: Stream
    decoder: Decoder
    think_at: int | None
    """Where in the output the end-of-thinking token stands; None: nowhere."""
    finish: str
    stop_reason: int | str | None
    think_start: int | None = None
    seen: int = 0
    sent: int = 0
    role_sent: bool = False
    done: bool = False
    reasoning: str = ""
    content: str = ""
    held: str = ""
    """Text not yet sent, as it could begin a stop string."""
    waiting: tuple[str, str] = ("", "")
    """Text of tokens not yet sent, by stream interval or a slow reader."""
    pieces: list[str] = field(default_factory=list)

    @property
    def output(self) -> list[int]:
        """Ids counted so far."""
        return self.stream.ids[self.stream.prompt : self.stream.prompt + self.seen]

    @property
    def reasoning_tokens(self) -> int:
        """Tokens before the end of thinking, its mark left out."""
        return self.seen if self.think_at is None else min(self.seen, self.think_at)


class Answer:
    """One answer under way. `write` takes stream pieces, `finish` the last one, `body` is the answer without streaming."""

    def __init__(
        self,
        ask: Ask,
        dialect: Dialect,
        choices: list[Choice],
        prompts: list[list[int]],
        kind_id: str | None = None,
    ) -> None:
        self.ask, self.dialect, self.choices, self.prompts = ask, dialect, choices, prompts
        kind = "chatcmpl" if ask.chat else "cmpl"
        self.id = f"{kind}-{kind_id or secrets.token_hex(8)}"
        self.created = int(time.time())
        self.prompt_tokens = sum(len(prompt) for prompt in prompts)
        self.timings: Callable[[], dict[str, Any] | None] = lambda: None
        name = "chat.completion.chunk" if ask.chat else "text_completion"
        self._head = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % (
            encode(self.id), name.encode(), self.created, encode(dialect.model)
        )  # fmt: skip
        self._hold = max((len(stop) for stop in ask.stop), default=1) - 1 if not ask.include_stop else 0
        self.cached_tokens: Callable[[], int] = lambda: 0

    @property
    def done(self) -> bool:
        """Every choice has ended."""
        return all(choice.done for choice in self.choices)

    # Taking tokens

    def take(self, choice: Choice, count: int) -> bool:
        """Count and decode a choice's next tokens; True where that ends it."""
        start, stream = choice.seen, choice.stream
        ids = stream.ids[stream.prompt + start : stream.prompt + start + count]
        choice.seen += count
        ended = choice.seen >= stream.end
        reasoning, content = self._split(choice, start, ids)
        if self.ask.stop:
            content, ended = self._stop(choice, reasoning + content, ended)
            reasoning, content = self._reassign(choice, reasoning, content)
        choice.waiting = (choice.waiting[0] + reasoning, choice.waiting[1] + content)
        choice.done = ended
        return ended

    def _split(self, choice: Choice, start: int, ids: list[int]) -> tuple[str, str]:
        if not self.dialect.reasoning_parser or not self.ask.chat:
            return "", choice.decoder.push(self._visible(choice, ids))
        if choice.think_start is not None and start == 0 and ids and ids[0] == choice.think_start:
            ids, start = ids[1:], 1
        cut = len(ids) if choice.think_at is None else min(max(choice.think_at - start, 0), len(ids))
        thought = choice.decoder.push(ids[:cut]) if cut else ""
        rest = ids[cut:]
        if rest and choice.think_at is not None and start + cut == choice.think_at:
            rest = rest[1:]
        return thought, choice.decoder.push(self._visible(choice, rest)) if rest else ""

    def _visible(self, choice: Choice, ids: list[int]) -> list[int]:
        """All but a stop token that ends the text: vLLM counts it and does not write it."""
        if choice.seen >= choice.stream.end and choice.finish == "stop" and ids:
            return ids[:-1]
        return ids

    def _stop(self, choice: Choice, text: str, ended: bool) -> tuple[str, bool]:
        choice.held += text
        at, stop = min(
            ((choice.held.find(s), s) for s in self.ask.stop if s in choice.held), default=(-1, "")
        )
        if at >= 0 and choice.seen >= self.ask.min_tokens:
            choice.finish, choice.stop_reason = "stop", stop
            text = choice.held[: at + (len(stop) if self.ask.include_stop else 0)]
            choice.held = ""
            return text, True
        keep = 0 if ended else min(self._hold, len(choice.held))
        cut = len(choice.held) - keep
        text, choice.held = choice.held[:cut], choice.held[cut:]
        return text, ended

    def _reassign(self, choice: Choice, reasoning: str, text: str) -> tuple[str, str]:
        """Where text is held back it may be reasoning or content by now: it is whatever the last tokens were."""
        thinking = (
            self.dialect.reasoning_parser
            and self.ask.chat
            and (choice.think_at is None or choice.seen <= choice.think_at)
        )
        return (text, "") if thinking or (reasoning and not text) else ("", text)

    # Streams

    def chunks(self, choice: Choice) -> bytes:
        """Events for what the choice took since the last ones; nothing while a stream interval holds it."""
        fresh = choice.seen - choice.sent
        if choice.sent and not choice.done and fresh < self.dialect.stream_interval:
            return b""
        first = not choice.role_sent
        parts = []
        if first:
            choice.role_sent = True
            if self.ask.chat:
                parts.append(self._role(choice))
        delta = self._chat(choice, fresh) if self.ask.chat else self._text(choice, fresh, first=first)
        return b"".join([*parts, delta])

    def _role(self, choice: Choice) -> bytes:
        ids = encode(self.prompts[0]) if self.ask.return_token_ids else b"null"
        return b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%b,"prompt_token_ids":%b,"prompt_text":null}\n\n' % (
            self._head, choice.index, self._usage(0, 0), ids
        )  # fmt: skip

    def _take_waiting(self, choice: Choice, fresh: int) -> tuple[str, str, bytes, bytes]:
        """Text, token ids and log probabilities of the tokens now sent."""
        (reasoning, content), choice.waiting = choice.waiting, ("", "")
        start = choice.stream.prompt + choice.sent
        choice.sent += fresh
        ids = choice.stream.ids[start : start + fresh]
        logprobs = encode(self._logprobs(choice, ids)) if self.ask.logprobs else b"null"
        return reasoning, content, encode(ids) if self.ask.return_token_ids else b"null", logprobs

    def _chat(self, choice: Choice, fresh: int) -> bytes:
        before = choice.sent
        reasoning, content, ids, logprobs = self._take_waiting(choice, fresh)
        if self.dialect.reasoning_parser:
            control = (
                not reasoning
                and not content
                and choice.think_at is not None
                and before <= choice.think_at < choice.sent
            )
            if control and not choice.done and not self.ask.return_token_ids:
                return b""  # the end-of-thinking mark alone makes no chunk
            thinking = choice.think_at is None or before < choice.think_at
            delta = self._reasoning_delta(reasoning, content, thinking=thinking)
        else:
            delta = b'"content":' + encode(content)
        ending = b"null"
        if choice.done:
            ending = b'"%b","stop_reason":%b' % (choice.finish.encode(), encode(choice.stop_reason))
        return b'%b{"index":%d,"delta":{%b},"logprobs":%b,"finish_reason":%b,"token_ids":%b}]%b%b}\n\n' % (
            self._head, choice.index, delta, logprobs, ending, ids, self._running_usage(), self._last_fingerprint(choice)
        )  # fmt: skip

    def _reasoning_delta(self, reasoning: str, content: str, *, thinking: bool) -> bytes:
        key = self.dialect.reasoning_key.encode()
        if not self.ask.include_reasoning:
            return b'"content":' + encode(content)
        if reasoning and content:
            return b'"content":%b,"%b":%b' % (encode(content), key, encode(reasoning))
        if thinking:
            return b'"%b":%b' % (key, encode(reasoning))
        return b'"content":' + encode(content)

    def _text(self, choice: Choice, fresh: int, *, first: bool) -> bytes:
        _, content, ids, logprobs = self._take_waiting(choice, fresh)
        prompt = b"null"
        if first and self.ask.echo:
            content = self.echo(choice) + content
        if first and self.ask.return_token_ids:
            prompt = encode(choice.stream.ids[: choice.stream.prompt])
        ending = b'"%b"' % choice.finish.encode() if choice.done else b"null"
        reason = encode(choice.stop_reason) if choice.done else b"null"
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"prompt_token_ids":%b,"token_ids":%b}]%b%b}\n\n' % (
            self._head, choice.index, encode(content), logprobs, ending, reason, prompt, ids, self._running_usage(), self._last_fingerprint(choice)
        )  # fmt: skip

    echo: Callable[[Choice], str] = staticmethod(lambda _choice: "")

    def _last_fingerprint(self, choice: Choice) -> bytes:
        if choice.done and not self.ask.include_usage:
            return b',"system_fingerprint":' + encode(self.dialect.fingerprint)
        return b""

    def _running_usage(self) -> bytes:
        if not self.ask.continuous_usage:
            return b',"usage":null' if self.dialect.null_usage else b""
        return self._usage(
            sum(choice.sent for choice in self.choices),
            sum(choice.reasoning_tokens for choice in self.choices),
        )

    def _usage(self, completion: int, reasoning: int) -> bytes:
        if not self.ask.continuous_usage:
            return b""
        details = b""
        if self.ask.chat and self.dialect.usage_details:
            details = b',"completion_tokens_details":' + (
                b'{"reasoning_tokens":%d}' % reasoning if self.dialect.reasoning_parser else b"null"
            )
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
            self.prompt_tokens, self.prompt_tokens + completion, completion, details
        )  # fmt: skip

    def tail(self) -> bytes:
        """What follows the last choice's last chunk."""
        if not self.ask.include_usage:
            return DONE
        usage = {key: value for key, value in self.usage().items() if value is not None}
        metrics = self.timings()
        extra = b',"metrics":' + encode(metrics) if metrics else b""
        return b'%b],"usage":%b,"system_fingerprint":%b%b}\n\n%b' % (
            self._head,
            encode(usage),
            encode(self.dialect.fingerprint),
            extra,
            DONE,
        )

    # Whole answers

    def usage(self) -> dict[str, Any]:
        """Final usage; what was not asked for is null."""
        completion = sum(choice.seen for choice in self.choices)
        parser = self.dialect.reasoning_parser and self.dialect.usage_details and self.ask.chat
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens(), "created_cache_tokens": 0}
            if self.dialect.prompt_details
            else None,
            "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in self.choices)}
            if parser
            else None,
        }

    def _logprobs(self, choice: Choice, ids: list[int]) -> dict[str, Any]:
        """The text is certain: each token has probability 1."""
        texts = (
            [choice.pieces[0] if choice.pieces else ""] * len(ids)
            if not self.token_text
            else [self.token_text(i) for i in ids]
        )
        if self.ask.chat:
            return {
                "content": [
                    {"token": t, "logprob": 0.0, "bytes": list(t.encode()), "top_logprobs": []} for t in texts
                ]
            }
        return {
            "text_offset": [0] * len(ids),
            "token_logprobs": [0.0] * len(ids),
            "tokens": texts,
            "top_logprobs": [{t: 0.0} for t in texts],
        }

    token_text: Callable[[int], str] | None = None

    def collect(self, choice: Choice) -> None:
        """Keep what the choice took, for a whole answer."""
        (reasoning, content), choice.waiting = choice.waiting, ("", "")
        choice.reasoning += reasoning
        choice.content += content

    def body(self) -> dict[str, Any]:
        """The answer without streaming."""
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion" if self.ask.chat else "text_completion",
            "created": self.created,
            "model": self.dialect.model,
            "choices": [self._whole_chat(c) if self.ask.chat else self._whole_text(c) for c in self.choices],
            "service_tier": None,
            "system_fingerprint": self.dialect.fingerprint,
            "usage": self.usage(),
        }
        if self.ask.chat:
            ids = self.prompts[0] if self.ask.return_token_ids else None
            body |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
        return body | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": self.timings()}

    def _whole_chat(self, choice: Choice) -> dict[str, Any]:
        parser = self.dialect.reasoning_parser
        message = {
            "role": "assistant",
            "content": (choice.content or None) if parser else choice.content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            self.dialect.reasoning_key: (choice.reasoning or None)
            if parser and self.ask.include_reasoning
            else None,
        }
        return {"index": choice.index, "message": message, **self._ending(choice), "routed_experts": None}

    def _whole_text(self, choice: Choice) -> dict[str, Any]:
        ids = choice.stream.ids[: choice.stream.prompt] if self.ask.return_token_ids else None
        text = (self.echo(choice) if self.ask.echo else "") + choice.content
        return {
            "index": choice.index,
            "text": text,
            **self._ending(choice),
            "prompt_logprobs": None,
            "prompt_token_ids": ids,
            "routed_experts": None,
        }

    def _ending(self, choice: Choice) -> dict[str, Any]:
        return {
            "logprobs": self._logprobs(choice, choice.output) if self.ask.logprobs else None,
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.output if self.ask.return_token_ids else None,
        }


def error_event(message: str, type_: str, code: int) -> bytes:
    """An error inside a 200 stream, spaced as vLLM writes it, and the stream's end."""
    text, kind = encode(message).decode(), encode(type_).decode()
    body = f'{{"error": {{"message": {text}, "type": {kind}, "param": null, "code": {code}}}}}'
    return b"data: " + body.encode() + b"\n\n" + DONE
