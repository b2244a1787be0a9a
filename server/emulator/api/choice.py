"""One sequence of an answer: ids in, counted text out, split into reasoning and content.

Rules: a token is counted when it comes, its text may come later: held back where a stop string could begin or a character
lacks bytes. A stop token that ends the text is counted and not written. Does not know JSON, sockets or time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from server.emulator.api.sampling_params import SamplingParams
from server.emulator.engine.sequence import TokenSequence


class Decoder(Protocol):
    """Ids in, the text they complete out."""

    def push(self, ids: Sequence[int], /) -> str:
        """The text these ids complete."""
        ...


@dataclass(slots=True, eq=False)
class Choice:
    """One sequence. `take` moves `seen` on; whoever writes takes `text()` and moves `sent`."""

    index: int
    ask: SamplingParams
    stream: TokenSequence
    decoder: Decoder
    thinks: bool
    """A reasoning parser splits the text."""
    think_start: int | None = None
    """Id of the start-of-thinking mark, dropped where the output opens with it."""
    think_at: int | None = None
    """Where in the output the end-of-thinking mark stands, as far as is known; -1 where the prompt holds it."""
    finish: str = "length"
    stop_reason: int | str | None = None
    seen: int = 0
    sent: int = 0
    done: bool = False
    role_sent: bool = False
    offset: int = 0
    """Characters whose logprobs were written."""
    _reasoning: str = ""
    _content: str = ""
    _held: str = ""
    _held_reasoning: int = 0
    """How many characters of what is held are reasoning."""

    @property
    def fresh(self) -> int:
        """Tokens seen and not sent."""
        return self.seen - self.sent

    @property
    def reasoning_tokens(self) -> int:
        """Tokens before the end of thinking, its mark left out."""
        return self.seen if self.think_at is None else max(min(self.seen, self.think_at), 0)

    def ids(self, start: int, end: int) -> list[int]:
        """Output ids between two places."""
        return self.stream.ids[self.stream.prompt + start : self.stream.prompt + end]

    def take(self, count: int) -> bool:
        """Count and decode the next tokens; True where they end the sequence."""
        start = self.seen
        self.seen += count
        ended = self.seen >= self.stream.end
        ids = self.ids(start, self.seen)
        if ended and self.finish == "stop" and ids:
            ids.pop()
        reasoning, content = self._split(start, ids) if self.thinks else ("", self.decoder.push(ids))
        if self.ask.stop:
            reasoning, content, ended = self._stop(reasoning, content, ended=ended)
        self._reasoning += reasoning
        self._content += content
        self.done = ended
        return ended

    def text(self) -> tuple[str, str]:
        """Reasoning and content not asked for before."""
        found = (self._reasoning, self._content)
        self._reasoning = self._content = ""
        return found

    def _split(self, start: int, ids: list[int]) -> tuple[str, str]:
        if start == 0 and ids and ids[0] == self.think_start:
            ids, start = ids[1:], 1
        if self.think_at is None or start + len(ids) <= self.think_at:
            return self.decoder.push(ids), ""
        cut = max(self.think_at - start, 0)
        reasoning = self.decoder.push(ids[:cut]) if cut else ""
        rest = ids[cut + 1 :] if start + cut == self.think_at else ids[cut:]
        return reasoning, self.decoder.push(rest)

    def _stop(self, reasoning: str, content: str, *, ended: bool) -> tuple[str, str, bool]:
        """Look for stop strings in what is held and what is new; hold back what could begin one."""
        self._held_reasoning += len(reasoning)
        self._held += reasoning + content
        hits = [(self._held.find(stop), stop) for stop in self.ask.stop if stop in self._held]
        if hits and self.seen > self.ask.min_tokens:
            at, self.stop_reason = min(hits)
            self.finish, ended = "stop", True
            cut = at + (len(self.stop_reason) if self.ask.include_stop else 0)
        else:
            hold = 0 if ended or self.ask.include_stop else max(map(len, self.ask.stop)) - 1
            cut = max(len(self._held) - hold, 0)
        out, self._held = self._held[:cut], self._held[cut:]
        border = min(self._held_reasoning, cut)
        self._held_reasoning -= border
        return out[:border], out[border:], ended
