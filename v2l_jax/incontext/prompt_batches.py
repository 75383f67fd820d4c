"""Prompts → batches of few static shapes in which a prefix shared by many prompts appears once."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int


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
      groups: for each of `groups` equal runs of rows, which of the wave's prefixes they begin with.
      rows: index of each row's prompt; -1 for a row that only fills the shape.
      length: suffixes are padded to it.
    """

    groups: Int[np.ndarray, "groups"]
    rows: Int[np.ndarray, "batch"]
    length: int


@dataclasses.dataclass(frozen=True)
class Wave:
    """Prefixes that are computed in one call and kept until their batches have run; none if `length` is 0.

    Attributes:
      prefixes: token ids; padded with empty ones to a power of two.
      length: prefixes are padded to it.
      batches: every prompt that begins with one of the prefixes.
    """

    prefixes: tuple[tuple[int, ...], ...]
    length: int
    batches: tuple[Batch, ...]


def bucket_length(length: int) -> int:
    """The padded length of a sequence: multiples of 8 up to 32, then four sizes an octave (padding under a quarter)."""
    step = max(8, _power_of_two(length) // 8)
    return -(-length // step) * step


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def share_prefixes(prompts: Sequence[Sequence[int]]) -> list[Prompt]:
    """Cuts prompts so that computing each distinct prefix once saves the most tokens.

    Optimal among cuts with one shared prefix a prompt: in the radix tree of the prompts, a node of depth d with n prompts
    below saves n·d tokens less the (padded) one computation, or what the best cuts below it save together.

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
            here = (last + 1 - first) * node_depth - bucket_length(node_depth)
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


def plan_batches(
    prompts: Sequence[Prompt], token_budget: int, shards: int = 1, extra_tokens: int = 0
) -> list[Wave]:
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
        by_length[bucket_length(len(prefix)) if prefix else 0].append(prefix)
    waves = []
    for length, prefixes in sorted(by_length.items()):
        size = max(1, _power_of_two(token_budget // max(length, 1) + 1) // 2)
        for start in range(0, len(prefixes), size):
            chosen = prefixes[start : start + size]
            batches = _wave_batches(prompts, [by_prefix[p] for p in chosen], token_budget, shards, extra_tokens)
            filler = ((),) * (_power_of_two(len(chosen)) - len(chosen))
            waves.append(Wave((*chosen, *filler), length, tuple(batches)))
    return waves


def _wave_batches(prompts, members: list[list[int]], token_budget: int, shards: int, extra_tokens: int) -> Iterator[Batch]:
    """Batches of one wave: suffixes of similar length together."""
    by_length: dict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in members])
    for group, indices in enumerate(members):
        for index in indices:
            by_length[bucket_length(len(prompts[index].suffix))][group].append(index)
    for length, groups in sorted(by_length.items()):
        rows = _power_of_two(token_budget // (length + extra_tokens) // shards + 1) // 2
        yield from _fill(groups, max(rows, 1) * shards, shards, length)


def _fill(groups: list[list[int]], rows: int, shards: int, length: int) -> Iterator[Batch]:
    """Batches of `rows` rows: first those of one prefix, then of two, four, … prefixes; only the last has empty rows."""
    if sum(map(bool, groups)) == 1:
        (group,) = (g for g, left in enumerate(groups) if left)
        for start in range(0, len(groups[group]), rows):
            part = groups[group][start : start + rows]
            yield Batch(np.array([group]), _padded(part, shards), length)
        return
    run = rows
    while True:
        pieces = [(g, left[i : i + run]) for g, left in enumerate(groups) for i in range(0, len(left) - run + 1, run)]
        whole = len(pieces) - len(pieces) % (rows // run) if run > 1 else len(pieces)
        for start in range(0, whole, rows // run):
            part = pieces[start : start + rows // run]
            indices = _padded([index for _, piece in part for index in piece], shards)
            group_ids = np.zeros(len(indices) // run, np.int64)
            group_ids[: len(part)] = [g for g, _ in part]
            yield Batch(group_ids, indices, length)
        taken = {index for _, piece in pieces[:whole] for index in piece}
        groups = [[index for index in left if index not in taken] for left in groups]
        if run == 1:
            return
        run = run // 2 if run % 2 == 0 else 1


def _padded(indices: list[int], shards: int) -> Int[np.ndarray, "batch"]:
    """Row indices, filled up with -1 to a power of two times `shards`."""
    rows = np.full(_power_of_two(-(-len(indices) // shards)) * shards, -1)
    rows[: len(indices)] = indices
    return rows
