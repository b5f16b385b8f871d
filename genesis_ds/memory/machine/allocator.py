"""What allocators take for what is asked: a model of torch's CUDA caching allocator, and of its pinned host memory.

Source: torch 2.13, c10/core/AllocatorConfig.h (constants), c10/cuda/CUDACachingAllocator.cpp (the caching allocator
of one stream, no max_split_size) and ATen/core/CachingHostAllocator.h (pinned memory). Sizes are bytes.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

MIN_BLOCK = 512
SMALL_SIZE = 1 << 20
"""The largest block that comes from the small pool (kSmallSize)."""
SMALL_SEGMENT = 2 << 20
"""A segment of the small pool (kSmallBuffer), and the granule by which an expandable one grows."""
LARGE_SEGMENT = 20 << 20
"""A segment for blocks up to 10 MiB (large_segment_size_mb), and the granule by which an expandable one grows."""
MIN_LARGE_ALLOC = 10 << 20
"""From here on a block gets a segment of its own (kMinLargeAlloc)..."""
ROUND_LARGE = 2 << 20
"""...of a multiple of this (kRoundLarge)."""


def round_512(nbytes: int) -> int:
    """Return the bytes that torch's CUDA allocator counts as allocated."""
    return _up(nbytes, MIN_BLOCK)


def round_pinned(nbytes: int, exact_above: int | None = None) -> int:
    """Return the bytes that torch's pinned host allocator takes: the next power of two.

    exact_above: sizes above it are taken as they are, the smaller of pinned_max_round_threshold_mb and
    pinned_max_cached_size_mb in PYTORCH_ALLOC_CONF; None: neither is set.
    """
    if nbytes <= 0 or (exact_above is not None and nbytes > exact_above):
        return nbytes
    return 1 << (nbytes - 1).bit_length()


def reserved_by_phase(
    log: Iterable[tuple[str, str, int]], expandable_segments: bool, capacity: int | None = None
) -> dict[str, int]:
    """Return {phase: highest reserved bytes}, in order, as read after reset_peak_memory_stats at each start.

    log: (phase, key, bytes taken, negative where freed); 0 bytes stand for torch.cuda.empty_cache().
    capacity: what torch may reserve. Where it is passed, torch first gives its cached memory back; what is then
    still above it is an out-of-memory error.
    """
    kind: type[_Pool] = _Expandable if expandable_segments else _Segments
    small, large = kind(small=True), kind(small=False)
    alive: dict[str, tuple[_Pool, _Block]] = {}
    peaks: dict[str, int] = {}
    reserved = 0
    for phase, key, change in log:
        if change > 0:
            size = round_512(change)
            pool = small if size <= SMALL_SIZE else large
            alive[key] = pool, pool.take(size)
            reserved = small.reserved + large.reserved
        elif change < 0:
            pool, block = alive.pop(key)
            pool.give(block)
        if change == 0 or (capacity is not None and reserved > capacity):
            small.release()
            large.release()
            reserved = small.reserved + large.reserved
        if reserved > peaks.get(phase, -1):
            peaks[phase] = reserved
    return peaks


class _Block:
    """A range of addresses and its neighbours in the segment; unmapped: no memory is behind it yet, or any more."""

    __slots__ = ("address", "following", "free", "mapped", "previous", "size")

    def __init__(self, address: int, size: int, mapped: bool = True) -> None:
        self.address, self.size, self.mapped = address, size, mapped
        self.free = True
        self.previous: _Block | None = None
        self.following: _Block | None = None


class _Pool:
    """Blocks of one kind: best fit, split what is left over, merge free neighbours."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.reserved = 0
        self.cached: list[tuple[int, int, _Block]] = []
        """Free mapped blocks by size, then address."""
        self.smallest_rest = MIN_BLOCK
        """A block is split when at least this much is left over."""

    def take(self, size: int) -> _Block:
        """Return a block of at least size bytes."""
        index = self._best_fit(size)
        block = self.cached.pop(index)[2] if index < len(self.cached) else self._grow(size)
        block.free = False
        if block.size - size >= self.smallest_rest:
            self._cache(self._split(block, size))
        return block

    def give(self, block: _Block) -> None:
        """Free a block."""
        block.free = True
        self._cache(self._merge(block))

    def release(self) -> None:
        """Give back the memory that is cached and whole."""
        raise NotImplementedError

    def _best_fit(self, size: int) -> int:
        return bisect_left(self.cached, (size,))

    def _grow(self, size: int) -> _Block:
        """Return a block of new memory, not cached."""
        raise NotImplementedError

    def _cache(self, block: _Block) -> None:
        insort(self.cached, (block.size, block.address, block))

    def _uncache(self, block: _Block) -> None:
        del self.cached[bisect_left(self.cached, (block.size, block.address))]

    @staticmethod
    def _split(block: _Block, size: int) -> _Block:
        """Cut the block to size and return the rest, not cached."""
        rest = _Block(block.address + size, block.size - size, block.mapped)
        rest.previous, rest.following, block.following, block.size = block, block.following, rest, size
        if rest.following:
            rest.following.previous = rest
        return rest

    def _merge(self, block: _Block) -> _Block:
        """Return the block (not cached) joined with its free mapped neighbours."""
        before, after = block.previous, block.following
        if after and after.free and after.mapped:
            self._uncache(after)
            _absorb(block, after)
        if before and before.free and before.mapped:
            self._uncache(before)
            _absorb(before, block)
            return before
        return block


class _Segments(_Pool):
    """A pool in which each segment is one cudaMalloc."""

    def __init__(self, small: bool) -> None:
        super().__init__(small)
        self.smallest_rest = MIN_BLOCK if small else SMALL_SIZE + 1
        self._next_address = 0

    def _grow(self, size: int) -> _Block:
        shared = SMALL_SEGMENT if self.small else LARGE_SEGMENT
        segment = _up(size, ROUND_LARGE) if size >= MIN_LARGE_ALLOC else shared
        self.reserved += segment
        self._next_address += segment
        return _Block(self._next_address - segment, segment)

    def release(self) -> None:
        kept = [entry for entry in self.cached if entry[2].previous or entry[2].following]
        self.reserved -= sum(entry[0] for entry in self.cached) - sum(entry[0] for entry in kept)
        self.cached = kept


class _Expandable(_Pool):
    """A pool of one segment, mapped granule by granule, that ends in endless unmapped address space."""

    def __init__(self, small: bool) -> None:
        super().__init__(small)
        self.granule = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.unmapped = [_Block(0, 1 << 60, mapped=False)]
        """By address; each begins and ends (the last one apart) at a granule."""

    def _best_fit(self, size: int) -> int:
        """Return the index of the best fit, sparing blocks that could still grow where a slightly larger one cannot."""
        index = super()._best_fit(size)
        while index + 1 < len(self.cached) and self._room(index + 1) < self._room(index):
            index += 1
        return index

    def _room(self, index: int) -> int:
        block = self.cached[index][2]
        after = block.following
        return block.size + (after.size if after and not after.mapped else 0)

    def _grow(self, size: int) -> _Block:
        """Map at the lowest address where free and unmapped blocks in a row have room."""
        block = next(start for hole in self.unmapped if (start := self._start(hole, size)))
        if not block.mapped:
            block = self._map(block, size)
        while block.size < size:
            assert block.following
            block = self._map(block.following, size - block.size)
        self._uncache(block)
        return block

    @staticmethod
    def _start(hole: _Block, size: int) -> _Block | None:
        """Return the first of a row of free blocks, through this hole, with room for size bytes, or None."""
        before = hole.previous
        start = before if before and before.free else hole
        room = 0
        block: _Block | None = start
        while room < size and block and block.free:
            room += block.size
            block = block.following
        return start if room >= size else None

    def _map(self, hole: _Block, nbytes: int) -> _Block:
        """Put memory behind the hole's first nbytes, whole granules. Return the cached block it became part of."""
        index = self.unmapped.index(hole)
        nbytes = min(_up(nbytes, self.granule), hole.size)
        self.unmapped[index : index + 1] = [self._split(hole, nbytes)] if hole.size > nbytes else []
        hole.mapped = True
        self.reserved += nbytes
        block = self._merge(hole)
        self._cache(block)
        return block

    def release(self) -> None:
        for _, _, block in list(self.cached):
            first = _up(block.address, self.granule)
            whole = (block.address + block.size) // self.granule * self.granule - first
            if whole <= 0:
                continue
            self._uncache(block)
            hole = block
            if first > block.address:
                hole = self._split(block, first - block.address)
                self._cache(block)
            if hole.size > whole:
                self._cache(self._split(hole, whole))
            self.reserved -= whole
            self._unmap(hole)

    def _unmap(self, hole: _Block) -> None:
        hole.mapped = False
        before, after = hole.previous, hole.following
        if after and not after.mapped:
            self.unmapped.remove(after)
            _absorb(hole, after)
        if before and not before.mapped:
            _absorb(before, hole)
        else:
            insort(self.unmapped, hole, key=lambda block: block.address)


def _up(nbytes: int, multiple: int) -> int:
    return -(-nbytes // multiple) * multiple


def _absorb(block: _Block, after: _Block) -> None:
    block.size += after.size
    block.following = after.following
    if after.following:
        after.following.previous = block
