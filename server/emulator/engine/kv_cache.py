"""KV-cache blocks: who holds which, what is free, what can be shared.

Rules: a block is free, or held by at least one stream; free blocks keep what they hold until they are taken, oldest
first, so a prefix may be found again. Only whole blocks are shared, and the last prompt token is always computed.
Does not know time, scheduling or text.
"""

from collections.abc import Sequence
from typing import Protocol


class Holder(Protocol):
    """What the pool needs of a stream."""

    blocks: list[int]
    hashes: list[int]
    ids: list[int]
    salt: str | None


class BlockPool:
    """All KV blocks of one engine."""

    def __init__(self, blocks: int, size: int, *, caching: bool) -> None:
        self.total, self.size, self.caching = blocks, size, caching
        self._unused = blocks
        """Blocks never taken yet; their ids count down to 0."""
        self._freed: dict[int, None] = {}
        """In the order they will be taken."""
        self._holders: dict[int, int] = {}
        self._block_of: dict[int, int] = {}
        self._hash_of: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Blocks that a stream may take."""
        return self._unused + len(self._freed)

    @property
    def usage(self) -> float:
        """Share of blocks held, 0 to 1."""
        return 1 - self.free / self.total if self.total else 1.0

    def needed(self, holder: Holder, tokens: int) -> int:
        """Further blocks that `tokens` tokens in all would take."""
        return -(-tokens // self.size) - len(holder.blocks)

    def grow(self, holder: Holder, tokens: int) -> bool:
        """Hold enough for `tokens` tokens; False, and nothing taken, where too few are free."""
        more = self.needed(holder, tokens)
        if more > self.free:
            return False
        for _ in range(more):
            holder.blocks.append(self._take())
        return True

    def _take(self) -> int:
        if self._unused:
            self._unused -= 1
            block = self._unused
        else:
            block = next(iter(self._freed))
            del self._freed[block]
            known = self._hash_of.pop(block, None)
            if known is not None:
                del self._block_of[known]
        self._holders[block] = 1
        return block

    def release(self, holder: Holder) -> None:
        """Give back everything; the last block first, as it is the least likely to be asked for again."""
        for block in reversed(holder.blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
                self._freed[block] = None
        holder.blocks.clear()
        holder.hashes.clear()

    def find(self, holder: Holder, tokens: int) -> int:
        """Share the cached blocks that begin this stream's first `tokens` tokens; how many tokens they hold."""
        if not self.caching:
            return 0
        found = []
        for hash_ in self._chain(holder, (tokens - 1) // self.size):
            block = self._block_of.get(hash_)
            if block is None:
                break
            found.append((block, hash_))
        for block, hash_ in found:
            self._freed.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1
            holder.blocks.append(block)
            holder.hashes.append(hash_)
        return len(found) * self.size

    def cache(self, holder: Holder, computed: int) -> None:
        """Make the whole blocks of `computed` tokens findable."""
        if not self.caching or computed // self.size <= len(holder.hashes):
            return
        for hash_ in self._chain(holder, computed // self.size)[len(holder.hashes) :]:
            block = holder.blocks[len(holder.hashes)]
            holder.hashes.append(hash_)
            if hash_ not in self._block_of:
                self._block_of[hash_] = block
                self._hash_of[block] = hash_

    def _chain(self, holder: Holder, blocks: int) -> Sequence[int]:
        """Hashes of the first blocks, each of all that comes before it too."""
        chain = list(holder.hashes)
        previous = chain[-1] if chain else hash(holder.salt)
        for start in range(len(chain) * self.size, blocks * self.size, self.size):
            previous = hash((previous, tuple(holder.ids[start : start + self.size])))
            chain.append(previous)
        return chain

    def forget(self) -> bool:
        """Drop every cached prefix (`/reset_prefix_cache`); False while blocks are held."""
        if self._holders:
            return False
        self._block_of.clear()
        self._hash_of.clear()
        return True
