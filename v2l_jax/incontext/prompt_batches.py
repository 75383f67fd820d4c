"""Prompts → batches of few static shapes in which a prefix shared by many prompts appears once."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

PREFIX_OVERHEAD = 16  # tokens' worth of padding and extra attention that a separate prefix costs


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, cut where sharing ends.

    Attributes:
      prefix: what other prompts begin with too; may be empty. Equal prefixes are computed once.
      suffix: the rest.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that run together.

    Attributes:
      prefixes: which of the wave's prefixes rows begin with: one for all rows, or one a row.
      rows: index of each row's prompt; -1 for a row that only fills the shape.
      length: suffixes are padded to it.
    """

    prefixes: Int[np.ndarray, "prefixes"]
    rows: Int[np.ndarray, "batch"]
    length: int


@dataclasses.dataclass(frozen=True)
class Wave:
    """Prefixes that are computed in one call and kept until their batches have run.

    Attributes:
      prefixes: token ids; padded with empty ones to a power of two.
      length: prefixes are padded to it; 0 if prompts share nothing.
      batches: every prompt that begins with one of the prefixes.
    """

    prefixes: tuple[tuple[int, ...], ...]
    length: int
    batches: tuple[Batch, ...]


def bucket_length(length: int) -> int:
    """The padded length of a sequence: powers of two up to 8, then steps of 8, then four sizes an octave."""
    if length <= 8:
        return _power_of_two(length)
    step = max(8, _power_of_two(length) // 8)
    return -(-length // step) * step


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def share_prefixes(prompts: Sequence[Sequence[int]]) -> list[Prompt]:
    """Cuts prompts so that computing each distinct prefix once saves the most tokens.

    Optimal among cuts with one shared prefix a prompt: in the radix tree of the prompts, a node of depth d with n prompts
    below saves (n - 1)·d tokens less PREFIX_OVERHEAD, or what the best cuts below it save together.

    Args:
      prompts: token ids, at least one each.

    Returns:
      Prompts in the same order; at least one token stays in the suffix.
    """
    cut = [0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    # Common prefixes of neighbours in sorted order hold the whole radix tree; its open nodes are on the stack.
    common = [_common_prefix(prompts[a], prompts[b]) for a, b in zip(order, order[1:])]
    open_nodes: list[tuple[int, int, int]] = []  # depth, first prompt, tokens saved by the children so far
    for last, depth in enumerate([*common, -1]):
        first, saved = last, 0
        while open_nodes and open_nodes[-1][0] > depth:
            node_depth, first, below = open_nodes.pop()
            saved += below
            here = (last - first) * node_depth - PREFIX_OVERHEAD
            if here >= saved:
                saved = here
                for i in order[first : last + 1]:
                    cut[i] = node_depth
        if open_nodes and open_nodes[-1][0] == depth:
            _, first, below = open_nodes.pop()
            saved += below
        open_nodes.append((depth, first, saved))
    return [Prompt(tuple(p[:c]), tuple(p[c:])) for p, c in zip(prompts, cut)]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix, at most all but the last token of either."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def plan_batches(prompts: Sequence[Prompt], token_budget: int, shards: int = 1, extra_tokens: int = 0) -> list[Wave]:
    """Arranges prompts into batches of bounded size and few shapes.

    Args:
      prompts: at least one suffix token each.
      token_budget: tokens of a batch, padding included; exceeded only where one row a device is more than that.
      shards: devices that a batch is split over; the rows of a batch are a multiple of it.
      extra_tokens: tokens that a row costs beside its suffix (candidate continuations).

    Returns:
      Waves whose batches hold every prompt once.
    """
    by_prefix: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_prefix[prompt.prefix].append(index)
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for prefix in by_prefix:
        by_length[max(16, _power_of_two(len(prefix))) if prefix else 0].append(prefix)
    waves = []
    for length, prefixes in sorted(by_length.items()):
        size = max(1, _power_of_two_below(token_budget // max(length, 1)))
        for start in range(0, len(prefixes), size):
            chosen = prefixes[start : start + size]
            rows = {g: _by_length(prompts, by_prefix[prefix]) for g, prefix in enumerate(chosen)}
            batches = _wave_batches(rows, length, _RowLimit(token_budget, shards, extra_tokens))
            filler = ((),) * (_power_of_two(len(chosen)) - len(chosen))
            waves.append(Wave((*chosen, *filler), length, tuple(batches)))
    return waves


_Row = tuple[int, int]  # prefix within the wave, prompt


@dataclasses.dataclass(frozen=True)
class _RowLimit:
    token_budget: int
    shards: int
    extra_tokens: int

    def rows(self, length: int) -> int:
        """The most rows of a batch whose rows cost `length` tokens: a power of two a device."""
        per_device = self.token_budget // (length + self.extra_tokens) // self.shards
        return max(1, _power_of_two_below(per_device)) * self.shards

    def padded(self, rows: Sequence[_Row]) -> Int[np.ndarray, "batch"]:
        """Prompt indices, filled up with -1 to a power of two a device."""
        size = _power_of_two(-(-len(rows) // self.shards)) * self.shards
        return np.array([index for _, index in rows] + [-1] * (size - len(rows)))


def _by_length(prompts: Sequence[Prompt], indices: list[int]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        rows[bucket_length(len(prompts[index].suffix))].append(index)
    return rows


def _wave_batches(groups: dict[int, dict[int, list[int]]], prefix_length: int, limit: _RowLimit) -> Iterator[Batch]:
    """Batches of one prefix where enough rows share it; the rest pooled, each row with a copy of its prefix.

    Copies of prefixes much longer than what follows would cost more than they save: those groups stay alone.
    """
    longest = max(length for by_length in groups.values() for length in by_length)
    if len(groups) == 1 or prefix_length > 4 * longest:
        for group, by_length in groups.items():
            rows = {length: [(group, i) for i in indices] for length, indices in by_length.items()}
            yield from _fill(rows, limit, 0)
        return
    pool: dict[int, list[_Row]] = defaultdict(list)
    for group, by_length in groups.items():
        for length, indices in by_length.items():
            whole = len(indices) - len(indices) % limit.rows(length)
            yield from _fill({length: [(group, i) for i in indices[:whole]]}, limit, 0)
            pool[length] += [(group, i) for i in indices[whole:]]
    yield from _fill(pool, limit, prefix_length)


def _fill(rows: dict[int, list[_Row]], limit: _RowLimit, prefix_length: int) -> Iterator[Batch]:
    """Full batches of each length; what is left over joins the next longer ones, unless it would be padded too much."""
    waiting: list[_Row] = []
    lengths = sorted(rows)
    for length, following in zip(lengths, [*lengths[1:], None]):
        waiting += rows[length]
        size = limit.rows(length + prefix_length)
        keep = len(waiting) % size if following is not None and following <= 2 * length else 0
        for start in range(0, len(waiting) - keep, size):
            part = waiting[start : start + size]
            indices = limit.padded(part)
            prefixes = [g for g, _ in part] + [0] * (len(indices) - len(part)) if prefix_length else [part[0][0]]
            yield Batch(np.array(prefixes), indices, length)
        waiting = waiting[len(waiting) - keep :]


def _power_of_two_below(n: int) -> int:
    """The largest power of two that is not above n; 0 for 0."""
    return _power_of_two(n + 1) // 2
