"""The bytes of an answer: chunks of a stream, or one JSON body, key for key as recorded from vLLM.

Rules: what is constant in a request's chunks is rendered once; a chunk is a few bytes joined. Tests compare keys and
chunk kinds with the recorded streams. Does not know sockets, time or the engine.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from server.emulator.api.choice import Choice
from server.emulator.api.sampling_params import SamplingParams

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between releases and flags in the bytes of an answer."""

    model: str
    fingerprint: str
    reasoning_parser: bool
    reasoning_key: str = "reasoning"
    usage_details: bool = True
    """0.32 has completion_tokens_details in usage; 0.26 does not."""
    prompt_details: bool = False
    stream_interval: int = 1
    null_usage: bool = False
    """0.7.3 writes `"usage":null` into chunks where none was asked."""


class ResponseWriter:
    """One answer under way, of one or more choices."""

    def __init__(
        self, ask: SamplingParams, dialect: Dialect, choices: list[Choice], prompts: list[list[int]]
    ) -> None:
        self.ask, self.dialect, self.choices = ask, dialect, choices
        self.id = f"{'chatcmpl' if ask.chat else 'cmpl'}-{secrets.token_hex(8)}"
        self.created = int(time.time())
        self._prompts = prompts
        self.prompt_tokens = sum(map(len, prompts))
        self.timings: Callable[[], dict[str, Any] | None] = lambda: None
        self.echo: Callable[[Choice], str] = lambda _choice: ""
        self.token_text: Callable[[int], str] = str
        kind = b"chat.completion.chunk" if ask.chat else b"text_completion"
        head = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":['
        self._head = head % (encode(self.id), kind, self.created, encode(dialect.model))
        self._fingerprint = b',"system_fingerprint":' + encode(dialect.fingerprint)

    @property
    def done(self) -> bool:
        """Every choice has ended."""
        return all(choice.done for choice in self.choices)

    # Streams

    def chunks(self, choice: Choice) -> bytes:
        """Events for what the choice took since the last ones; none while a stream interval holds them."""
        if choice.sent and not choice.done and choice.fresh < self.dialect.stream_interval:
            return b""
        if not self.ask.chat:
            return self._completion(choice)
        role = b"" if choice.role_sent else self._role(choice)
        return role + self._chat(choice)

    def _role(self, choice: Choice) -> bytes:
        choice.role_sent = True
        return (
            b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%b'
            b',"prompt_token_ids":%b,"prompt_text":null}\n\n'
        ) % (
            self._head,
            choice.index,
            self._usage(0, 0) if self.ask.continuous_usage else b"",
            encode(self._prompts[0]) if self.ask.return_token_ids else b"null",
        )

    def _chat(self, choice: Choice) -> bytes:
        start, end = choice.sent, choice.seen
        reasoning, content = choice.text()
        choice.sent = end
        if self.dialect.reasoning_parser:
            mark = choice.think_at is not None and start <= choice.think_at < end
            if mark and not (reasoning or content or choice.done or self.ask.return_token_ids):
                return b""  # the end-of-thinking mark alone makes no chunk
            thinking = choice.think_at is None or start < choice.think_at
            delta = self._delta(reasoning, content, thinking=thinking)
        else:
            delta = b'"content":' + encode(content)
        ending = b"null"
        if choice.done:
            ending = b'"%b","stop_reason":%b' % (choice.finish.encode(), encode(choice.stop_reason))
        return b'%b{"index":%d,"delta":{%b},"logprobs":%b,"finish_reason":%b,"token_ids":%b}]%b}\n\n' % (
            self._head,
            choice.index,
            delta,
            self._logprobs(choice, start, end),
            ending,
            encode(choice.ids(start, end)) if self.ask.return_token_ids else b"null",
            self._chunk_end(choice),
        )

    def _delta(self, reasoning: str, content: str, *, thinking: bool) -> bytes:
        key = self.dialect.reasoning_key.encode()
        if not self.ask.include_reasoning or not (thinking or reasoning):
            return b'"content":' + encode(content)
        if reasoning and content:
            return b'"content":%b,"%b":%b' % (encode(content), key, encode(reasoning))
        return b'"%b":%b' % (key, encode(reasoning)) if not content else b'"content":' + encode(content)

    def _completion(self, choice: Choice) -> bytes:
        start, end = choice.sent, choice.seen
        _, content = choice.text()
        choice.sent = end
        prompt = b"null"
        if not start:
            content = self.echo(choice) + content if self.ask.echo else content
            prompt = (
                encode(choice.stream.ids[: choice.stream.prompt]) if self.ask.return_token_ids else prompt
            )
        return (
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"prompt_token_ids":%b'
            b',"token_ids":%b}]%b}\n\n'
        ) % (
            self._head,
            choice.index,
            encode(content),
            self._logprobs(choice, start, end),
            b'"%b"' % choice.finish.encode() if choice.done else b"null",
            encode(choice.stop_reason) if choice.done else b"null",
            prompt,
            encode(choice.ids(start, end)) if self.ask.return_token_ids else b"null",
            self._chunk_end(choice),
        )

    def _chunk_end(self, choice: Choice) -> bytes:
        """Usage so far, and the fingerprint on a last chunk that no usage chunk follows."""
        if self.ask.continuous_usage:
            choices = self.choices
            return self._usage(sum(c.sent for c in choices), sum(c.reasoning_tokens for c in choices))
        usage = b',"usage":null' if self.dialect.null_usage else b""
        return usage + self._fingerprint if choice.done and not self.ask.include_usage else usage

    def _usage(self, completion: int, reasoning: int) -> bytes:
        details = b""
        if self.ask.chat and self.dialect.usage_details:
            counted = b'{"reasoning_tokens":%d}' % reasoning if self.dialect.reasoning_parser else b"null"
            details = b',"completion_tokens_details":' + counted
        total = self.prompt_tokens + completion
        form = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}'
        return form % (self.prompt_tokens, total, completion, details)

    def tail(self) -> bytes:
        """What follows the last choice's last chunk."""
        if not self.ask.include_usage:
            return DONE
        usage = {key: value for key, value in self.usage().items() if value is not None}
        metrics = _without_nulls(self.timings() or {})
        extra = b',"metrics":' + encode(metrics) if metrics else b""
        return b'%b],"usage":%b%b%b}\n\n%b' % (self._head, encode(usage), self._fingerprint, extra, DONE)

    # Whole answers

    def usage(self) -> dict[str, Any]:
        """Final usage; what was not asked for is null."""
        completion = sum(choice.seen for choice in self.choices)
        cached = {"cached_tokens": sum(max(c.stream.cached, 0) for c in self.choices)}
        if self.ask.chat:
            cached["created_cache_tokens"] = 0
        parsed = self.dialect.reasoning_parser and self.dialect.usage_details and self.ask.chat
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": cached if self.dialect.prompt_details else None,
            "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in self.choices)}
            if parsed
            else None,
        }

    def body(self) -> dict[str, Any]:
        """The answer without streaming; asked for once."""
        ask, chat = self.ask, self.ask.chat
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": self.created,
            "model": self.dialect.model,
            "choices": [self._whole_chat(c) if chat else self._whole_text(c) for c in self.choices],
            "service_tier": None,
            "system_fingerprint": self.dialect.fingerprint,
            "usage": self.usage(),
        }
        if chat:
            ids = self._prompts[0] if ask.return_token_ids else None
            body |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
        return body | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": self.timings()}

    def _whole_chat(self, choice: Choice) -> dict[str, Any]:
        reasoning, content = choice.text()
        parser = self.dialect.reasoning_parser
        message = {
            "role": "assistant",
            "content": (content or None) if parser else content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            self.dialect.reasoning_key: (reasoning or None)
            if parser and self.ask.include_reasoning
            else None,
        }
        return {"index": choice.index, "message": message, **self._ending(choice), "routed_experts": None}

    def _whole_text(self, choice: Choice) -> dict[str, Any]:
        text = (self.echo(choice) if self.ask.echo else "") + choice.text()[1]
        ids = choice.stream.ids[: choice.stream.prompt] if self.ask.return_token_ids else None
        rest = {"prompt_logprobs": None, "prompt_token_ids": ids, "routed_experts": None}
        return {"index": choice.index, "text": text, **self._ending(choice), **rest}

    def _ending(self, choice: Choice) -> dict[str, Any]:
        return {
            "logprobs": msgspec.Raw(self._logprobs(choice, 0, choice.seen)),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.ids(0, choice.seen) if self.ask.return_token_ids else None,
        }

    def _logprobs(self, choice: Choice, start: int, end: int) -> bytes:
        """The text is certain: each token's probability is 1, and it is its own only alternative."""
        if self.ask.logprobs is None:
            return b"null"
        texts = [self.token_text(token) for token in choice.ids(start, end)]
        if self.ask.chat:
            rows = [{"token": text, "logprob": 0.0, "bytes": list(text.encode())} for text in texts]
            return encode({"content": [row | {"top_logprobs": [row][: self.ask.logprobs]} for row in rows]})
        offsets = list(accumulate(map(len, texts), initial=choice.offset))
        choice.offset = offsets.pop()
        logprobs = {
            "text_offset": offsets,
            "token_logprobs": [0.0] * len(texts),
            "tokens": texts,
            "top_logprobs": [{text: 0.0} for text in texts],
        }
        return encode(logprobs)


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """As streams write objects: what is null is left out."""
    kept = {key: value for key, value in values.items() if value is not None}
    return {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in kept.items()}


def error_event(message: str, type_: str, code: int) -> bytes:
    """An error inside a 200 stream, spaced as vLLM writes it, and the stream's end."""
    text, kind = encode(message).decode(), encode(type_).decode()
    body = f'{{"error": {{"message": {text}, "type": {kind}, "param": null, "code": {code}}}}}'
    return b"data: " + body.encode() + b"\n\n" + DONE
