"""One choice of a response: takes its token ids from the text model, decodes them and splits the text into reasoning and content.

Rules: a token is counted when it arrives, but its text may be held back until a stop string is ruled out or a character is
complete. A stop token that ends the text is counted but not written. This module does not know JSON, sockets or time.
"""

from dataclasses import dataclass

from server.emulator.api.request_body import RequestBody
from server.emulator.engine.sequence import TokenSequence
from server.emulator.text.model import GeneratedText
from server.emulator.text.tokenizer import IncrementalDecoder

AHEAD_TOKENS = 64
"""The output is extended by at least this many tokens at a time."""


@dataclass(slots=True, eq=False)
class Choice:
    """One choice. The engine calls `extend`, `take` decodes tokens; the writer of the response takes `text()` and increases `sent`."""

    index: int
    params: RequestBody
    sequence: TokenSequence
    prompt_text: str
    reply: GeneratedText
    limit: int
    """Largest number of output tokens."""
    decoder: IncrementalDecoder
    splits_reasoning: bool
    """Whether a reasoning parser splits the text."""
    think_start_id: int | None = None
    """Id of the start-of-thinking token, which is dropped at the beginning of the output."""
    think_end_at: int | None = None
    """Position of the end-of-thinking token in the output; -1 if it is in the prompt, None if it is not known yet."""
    finish: str = "length"
    stop_reason: int | str | None = None
    decoded: int = 0
    """Number of tokens decoded."""
    sent: int = 0
    """Number of tokens written into chunks."""
    done: bool = False
    role_sent: bool = False
    offset: int = 0
    """Number of characters whose logprobs were written."""
    _reasoning: str = ""
    _content: str = ""
    _held: str = ""
    _held_reasoning: int = 0
    """Number of held characters that belong to the reasoning."""

    @property
    def unsent(self) -> int:
        """Number of tokens that are decoded but not sent."""
        return self.decoded - self.sent

    @property
    def reasoning_tokens(self) -> int:
        """Number of tokens before the end-of-thinking token."""
        return self.decoded if self.think_end_at is None else max(min(self.decoded, self.think_end_at), 0)

    def ids(self, start: int, end: int) -> list[int]:
        """Output ids between two positions."""
        return self.sequence.ids[self.sequence.prompt + start : self.sequence.prompt + end]

    def extend(self, tokens: int) -> None:
        """Make `tokens` output tokens known to the engine, or set the end of the sequence if the text ends before."""
        sequence, reply = self.sequence, self.reply
        have = len(sequence.ids) - sequence.prompt
        available = min(reply.grow(min(max(tokens, have + AHEAD_TOKENS), self.limit)), self.limit)
        new_ids = reply.ids[have:available]
        sequence.ids += new_ids
        if self.think_end_at is None and reply.thinking_end is not None and reply.thinking_end <= available:
            self.think_end_at = reply.thinking_end - 1
        if reply.ended and available == len(reply.ids):
            sequence.end, self.finish = available, "stop"
        if stops := self.params.stop_token_ids:
            for position, token in enumerate(new_ids, have):
                if token in stops and self.params.min_tokens <= position < sequence.end:
                    sequence.end, self.finish, self.stop_reason = position + 1, "stop", token

    def take(self, count: int) -> bool:
        """Count and decode the next tokens. Returns True if they end the choice."""
        start = self.decoded
        self.decoded += count
        ended = self.decoded >= self.sequence.end
        ids = self.ids(start, self.decoded)
        if ended and self.finish == "stop" and ids:
            ids.pop()
        reasoning, content = self._split(start, ids) if self.splits_reasoning else ("", self.decoder.push(ids))
        if self.params.stop:
            reasoning, content, ended = self._stop(reasoning, content, ended=ended)
        self._reasoning += reasoning
        self._content += content
        self.done = ended
        return ended

    def text(self) -> tuple[str, str]:
        """The reasoning and content that became available since the last call."""
        found = (self._reasoning, self._content)
        self._reasoning = self._content = ""
        return found

    def _split(self, start: int, ids: list[int]) -> tuple[str, str]:
        if start == 0 and ids and ids[0] == self.think_start_id:
            ids, start = ids[1:], 1
        if self.think_end_at is None or start + len(ids) <= self.think_end_at:
            return self.decoder.push(ids), ""
        cut = max(self.think_end_at - start, 0)
        reasoning = self.decoder.push(ids[:cut]) if cut else ""
        rest = ids[cut + 1 :] if start + cut == self.think_end_at else ids[cut:]
        return reasoning, self.decoder.push(rest)

    def _stop(self, reasoning: str, content: str, *, ended: bool) -> tuple[str, str, bool]:
        """Search held and new text for stop strings, and hold back text that could begin one."""
        self._held_reasoning += len(reasoning)
        self._held += reasoning + content
        found = [(self._held.find(stop), stop) for stop in self.params.stop if stop in self._held]
        if found and self.decoded > self.params.min_tokens:
            position, self.stop_reason = min(found)
            self.finish, ended = "stop", True
            cut = position + (len(self.stop_reason) if self.params.include_stop_str_in_output else 0)
        else:
            hold = 0 if ended or self.params.include_stop_str_in_output else max(map(len, self.params.stop)) - 1
            cut = max(len(self._held) - hold, 0)
        out, self._held = self._held[:cut], self._held[cut:]
        boundary = min(self._held_reasoning, cut)
        self._held_reasoning -= boundary
        return out[:boundary], out[boundary:], ended
