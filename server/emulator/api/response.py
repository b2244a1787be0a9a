"""Renders responses: the chunks of a stream or one JSON body, key for key as recorded from vLLM.

Rules: the constant parts of a request's chunks are rendered once. Tests compare keys and kinds of chunks with recorded
streams. This module does not know sockets or the engine's scheduling.
"""

import json
import secrets
import time
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from server.emulator.api.choice import Choice
from server.emulator.api.request_body import RequestBody, RequestError
from server.emulator.text.tokenizer import Tokenizer

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences between releases and server options in the format of responses."""

    model: str
    fingerprint: str
    reasoning_parser: bool
    reasoning_key: str
    usage_details: bool
    """Whether usage has completion_tokens_details: 0.32 has them, 0.26 does not."""
    prompt_details: bool
    stream_interval: int
    null_usage: bool
    """Whether chunks have `"usage":null` if no usage was requested, as in 0.7.3."""
    engine_dead_text: str
    """What a server whose engine has died says."""
    null_fields: bool
    """Whether there are `kv_transfer_params` in chunks and `weight_versions` in choices, both null, as in 0.33.

    In the chunks of a chat, only the last one of a choice has `weight_versions`.
    """


class ResponseWriter:
    """Writes one response with one or more choices."""

    def __init__(self, params: RequestBody, dialect: Dialect, choices: list[Choice], tokenizer: Tokenizer) -> None:
        self.params, self.dialect, self.choices, self._tokenizer = params, dialect, choices, tokenizer
        self.id = f"{'chatcmpl' if params.chat else 'cmpl'}-{secrets.token_hex(8)}"
        self.created = int(time.time())
        self.prompt_tokens = sum(choice.sequence.prompt for choice in choices) // params.n
        kind = b"chat.completion.chunk" if params.chat else b"text_completion"
        head = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":['
        self._head = head % (encode(self.id), kind, self.created, encode(dialect.model))
        self._fingerprint = b',"system_fingerprint":' + encode(dialect.fingerprint)
        self._weights = b',"weight_versions":null' if dialect.null_fields else b""

    @property
    def done(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.done for choice in self.choices)

    # Streams

    def chunks(self, choice: Choice) -> bytes:
        """Events for the tokens decoded since the last call; empty until the stream interval is full."""
        if choice.sent and not choice.done and choice.unsent < self.dialect.stream_interval:
            return b""
        if not self.params.chat:
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
            self._usage(0, 0) if self.params.continuous_usage else b"",
            encode(self._prompt_ids(choice)),
        )

    def _chat(self, choice: Choice) -> bytes:
        start, end = choice.sent, choice.decoded
        reasoning, content = choice.text()
        choice.sent = end
        if self.dialect.reasoning_parser:
            ends_thinking = choice.think_end_at is not None and start <= choice.think_end_at < end
            if ends_thinking and not (reasoning or content or choice.done or self.params.return_token_ids):
                return b""  # the end-of-thinking token alone makes no chunk
            thinking = choice.think_end_at is None or start < choice.think_end_at
            delta = self._delta(reasoning, content, thinking=thinking)
        else:
            delta = b'"content":' + encode(content)
        ending = b"null"
        if choice.done:
            ending = b'"%b","stop_reason":%b' % (choice.finish.encode(), encode(choice.stop_reason)) + self._weights
        return b'%b{"index":%d,"delta":{%b},"logprobs":%b,"finish_reason":%b,"token_ids":%b}]%b}\n\n' % (
            self._head,
            choice.index,
            delta,
            self._logprobs(choice, start, end),
            ending,
            encode(choice.ids(start, end)) if self.params.return_token_ids else b"null",
            self._chunk_end(choice),
        )

    def _delta(self, reasoning: str, content: str, *, thinking: bool) -> bytes:
        key = self.dialect.reasoning_key.encode()
        if not self.params.include_reasoning or not (thinking or reasoning):
            return b'"content":' + encode(content)
        if reasoning and content:
            return b'"content":%b,"%b":%b' % (encode(content), key, encode(reasoning))
        return b'"%b":%b' % (key, encode(reasoning)) if not content else b'"content":' + encode(content)

    def _completion(self, choice: Choice) -> bytes:
        start, end = choice.sent, choice.decoded
        _, content = choice.text()
        choice.sent = end
        if not start and self.params.echo:
            content = choice.prompt_text + content
        return (
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"prompt_token_ids":%b'
            b',"token_ids":%b%b}]%b}\n\n'
        ) % (
            self._head,
            choice.index,
            encode(content),
            self._logprobs(choice, start, end),
            b'"%b"' % choice.finish.encode() if choice.done else b"null",
            encode(choice.stop_reason) if choice.done else b"null",
            b"null" if start else encode(self._prompt_ids(choice)),
            encode(choice.ids(start, end)) if self.params.return_token_ids else b"null",
            self._weights,
            self._chunk_end(choice),
        )

    def _chunk_end(self, choice: Choice) -> bytes:
        """Usage so far, and the fingerprint if this is the last chunk and no usage chunk follows."""
        usage = b',"kv_transfer_params":null' if self.dialect.null_fields else b""
        if self.params.continuous_usage:
            choices = self.choices
            return usage + self._usage(sum(c.sent for c in choices), sum(c.reasoning_tokens for c in choices))
        usage += b',"usage":null' if self.dialect.null_usage else b""
        return usage + self._fingerprint if choice.done and not self.params.include_usage else usage

    def _usage(self, completion: int, reasoning: int) -> bytes:
        details = b""
        if self.params.chat and self.dialect.usage_details:
            counted = b'{"reasoning_tokens":%d}' % reasoning if self.dialect.reasoning_parser else b"null"
            details = b',"completion_tokens_details":' + counted
        total = self.prompt_tokens + completion
        form = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}'
        return form % (self.prompt_tokens, total, completion, details)

    def tail(self, timings: dict[str, Any] | None) -> bytes:
        """The events after the last chunk of the last choice. `timings` are the server's own, if its options enable them."""
        if not self.params.include_usage:
            return DONE
        usage = {key: value for key, value in self.usage().items() if value is not None}
        metrics = _without_nulls(timings or {})
        extra = b',"metrics":' + encode(metrics) if metrics else b""
        return b'%b],"usage":%b%b%b}\n\n%b' % (self._head, encode(usage), self._fingerprint, extra, DONE)

    # Complete responses

    def usage(self) -> dict[str, Any]:
        """Final usage. Details that the server does not report are null."""
        completion = sum(choice.decoded for choice in self.choices)
        cached = {"cached_tokens": sum(max(c.sequence.cached, 0) for c in self.choices)}
        if self.params.chat:
            cached["created_cache_tokens"] = 0
        parsed = self.dialect.reasoning_parser and self.dialect.usage_details and self.params.chat
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": cached if self.dialect.prompt_details else None,
            "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in self.choices)}
            if parsed
            else None,
        }

    def body(self, timings: dict[str, Any] | None) -> dict[str, Any]:
        """The response without streaming. It may be called once."""
        chat = self.params.chat
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": self.created,
            "model": self.dialect.model,
            "choices": [self._chat_choice(c) if chat else self._completion_choice(c) for c in self.choices],
            "service_tier": None,
            "system_fingerprint": self.dialect.fingerprint,
            "usage": self.usage(),
        }
        if chat:
            ids = self._prompt_ids(self.choices[0])
            body |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
        return body | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": timings}

    def _chat_choice(self, choice: Choice) -> dict[str, Any]:
        reasoning, content = choice.text()
        parser = self.dialect.reasoning_parser
        message = {
            "role": "assistant",
            "content": (content or None) if parser else content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            self.dialect.reasoning_key: (reasoning or None) if parser and self.params.include_reasoning else None,
        }
        return {"index": choice.index, "message": message, **self._ending(choice), "routed_experts": None}

    def _completion_choice(self, choice: Choice) -> dict[str, Any]:
        text = (choice.prompt_text if self.params.echo else "") + choice.text()[1]
        ids = self._prompt_ids(choice)
        rest = {"prompt_logprobs": None, "prompt_token_ids": ids, "routed_experts": None}
        return {"index": choice.index, "text": text, **self._ending(choice), **rest}

    def _prompt_ids(self, choice: Choice) -> list[int] | None:
        return choice.sequence.ids[: choice.sequence.prompt] if self.params.return_token_ids else None

    def _ending(self, choice: Choice) -> dict[str, Any]:
        weights = {"weight_versions": None} if self.dialect.null_fields else {}
        return {
            "logprobs": msgspec.Raw(self._logprobs(choice, 0, choice.decoded)),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.ids(0, choice.decoded) if self.params.return_token_ids else None,
            **weights,
        }

    def _logprobs(self, choice: Choice, start: int, end: int) -> bytes:
        """Every token has probability 1 and is its own only alternative."""
        if self.params.logprobs is None:
            return b"null"
        texts = [self._tokenizer.decode([token]) for token in choice.ids(start, end)]
        if self.params.chat:
            rows = [{"token": text, "logprob": 0.0, "bytes": list(text.encode())} for text in texts]
            shown = self.params.logprobs
            return encode({"content": [row | {"top_logprobs": [row][:shown]} for row in rows]})
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
    """Remove null values, as in the objects of streams."""
    kept = {key: value for key, value in values.items() if value is not None}
    return {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in kept.items()}


def error_event(error: RequestError) -> bytes:
    """An error event inside a stream with status 200, spaced as by vLLM, and the end of the stream."""
    return b"data: " + json.dumps(error.body, ensure_ascii=False).encode() + b"\n\n" + DONE
