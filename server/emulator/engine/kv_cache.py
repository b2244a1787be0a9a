"""The KV cache: which sequence holds which blocks, which blocks are free, and which cached prefixes can be shared.

Rules: a block is free or held by at least one sequence. Free blocks keep their content until they are taken again, the
longest-freed block first, so that a prefix can be found later. Only full blocks are shared, and the last prompt token is
always computed. This module does not know time, scheduling or text.
"""

from collections.abc import Sequence

from server.emulator.engine.sequence import TokenSequence


class BlockPool:
    """All KV blocks of one engine."""

    def __init__(self, blocks: int, size: int, *, caching: bool) -> None:
        self.total, self.size, self.caching = blocks, size, caching
        self._unused = blocks
        """Number of blocks that were never taken; the next one taken has this number minus one as its id."""
        self._freed: dict[int, None] = {}
        """Freed blocks, in the order in which they will be taken again."""
        self._references: dict[int, int] = {}
        self._block_of: dict[int, int] = {}
        self._hash_of: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Number of blocks that can be taken."""
        return self._unused + len(self._freed)

    @property
    def usage(self) -> float:
        """Share of blocks that are held, from 0 to 1."""
        return 1 - self.free / self.total if self.total else 1.0

    def grow(self, holder: TokenSequence, tokens: int) -> bool:
        """Take blocks until the holder has enough for `tokens` tokens. Takes nothing and returns False if too few are free."""
        more = -(-tokens // self.size) - len(holder.blocks)
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
        self._references[block] = 1
        return block

    def release(self, holder: TokenSequence) -> None:
        """Free all blocks of the holder, the last one first because it is the least likely to be shared again."""
        for block in reversed(holder.blocks):
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                self._freed[block] = None
        holder.blocks.clear()
        holder.hashes.clear()

    def find(self, holder: TokenSequence, tokens: int) -> int:
        """Share cached blocks that match the beginning of the first `tokens` tokens; returns how many tokens they hold."""
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
            self._references[block] = self._references.get(block, 0) + 1
            holder.blocks.append(block)
            holder.hashes.append(hash_)
        return len(found) * self.size

    def cache(self, holder: TokenSequence, computed: int) -> None:
        """Add the full blocks of the first `computed` tokens to the prefix cache."""
        if not self.caching or computed // self.size <= len(holder.hashes):
            return
        for hash_ in self._chain(holder, computed // self.size)[len(holder.hashes) :]:
            block = holder.blocks[len(holder.hashes)]
            holder.hashes.append(hash_)
            if hash_ not in self._block_of:
                self._block_of[hash_] = block
                self._hash_of[block] = hash_

    def _chain(self, holder: TokenSequence, blocks: int) -> Sequence[int]:
        """Hashes of the first blocks. Each hash covers its block and all blocks before it."""
        chain = list(holder.hashes)
        previous = chain[-1] if chain else hash(holder.salt)
        for start in range(len(chain) * self.size, blocks * self.size, self.size):
            previous = hash((previous, tuple(holder.ids[start : start + self.size])))
            chain.append(previous)
        return chain

    def reset_prefixes(self) -> bool:
        """Remove every cached prefix (`/reset_prefix_cache`). Does nothing and returns False while blocks are held."""
        if self._references:
            return False
        self._block_of.clear()
        self._hash_of.clear()
        return True
