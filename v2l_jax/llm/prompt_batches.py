"""Arranges prompts in batches of few static shapes, where a prefix that prompts share appears
once.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

PREFIX_OVERHEAD = 16  # tokens' worth of padding and extra attention that a separate prefix costs
_COPY_COST = 0.03  # of computing a prefix token: copying its keys and values
_COPY_LIMIT = 4  # prefix tokens copied for a batch, in token budgets


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


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of prefixes, from `LLMEngine.cache_prefixes`.

    Attributes:
      rows: which row of the cache holds a prefix, by its token ids.
      cache: a KVCache, [layers, rows, length, …]; of an engine of several processes, where `rows`
        says which process holds a prefix, the number that they call it by.
    """

    rows: Mapping[tuple[int, ...], int]
    cache: Any

    def cut(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        """Cuts each prompt behind the longest prefix that is here; at least one token stays in the
        suffix.

        Raises:
          ValueError: a prompt begins with none of them.
        """
        lengths = sorted({len(prefix) for prefix in self.rows}, reverse=True)
        return [_cut(tuple(prompt), lengths, self.rows) for prompt in prompts]


def _cut(
    prompt: tuple[int, ...], lengths: Sequence[int], rows: Mapping[tuple[int, ...], int]
) -> Prompt:
    for length in lengths:
        if length < len(prompt) and prompt[:length] in rows:
            return Prompt(prompt[:length], prompt[length:])
    raise ValueError(
        f"no cached prefix begins the prompt {list(prompt[:8])}… of {len(prompt)} tokens"
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that run together.

    Attributes:
      prefixes: which of the wave's prefixes each of equally long runs of rows begins with.
      rows: index of each row's prompt; -1 for a row that only fills the shape.
      length: suffixes are padded to it.
    """

    prefixes: Int[np.ndarray, " prefixes"]
    rows: Int[np.ndarray, " batch"]
    length: int


@dataclasses.dataclass(frozen=True)
class Wave:
    """Prefixes that are computed in one call and kept until their batches have run.

    Attributes:
      prefixes: token ids; padded with empty ones to few different counts.
      length: prefixes are padded to it; 0 if prompts share nothing.
      batches: every prompt that begins with one of the prefixes.
    """

    prefixes: tuple[tuple[int, ...], ...]
    length: int
    batches: tuple[Batch, ...]


def bucket_length(length: int) -> int:
    """The padded length of a sequence: powers of two up to 8, then steps of 8, then eight sizes an
    octave.
    """
    if length <= 8:
        return _power_of_two(length)
    step = max(8, _power_of_two(length) // 16)
    return -(-length // step) * step


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def share_prefixes(prompts: Sequence[Sequence[int]]) -> list[Prompt]:
    """Cuts prompts so that computing each distinct prefix once saves the most tokens.

    Optimal among cuts with one shared prefix a prompt: in the radix tree of the prompts, a node of
    depth d with n prompts below saves (n - 1)·d tokens less PREFIX_OVERHEAD, or what the best cuts
    below it save together.

    Args:
      prompts: token ids, at least one each.

    Returns:
      Prompts in the same order; at least one token stays in the suffix.
    """
    cut = [0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    # Common prefixes of neighbours in sorted order hold the whole radix tree; its open nodes are on
    # the stack.
    common = [_common_prefix(prompts[a], prompts[b]) for a, b in zip(order, order[1:])]
    open_nodes: list[
        tuple[int, int, int]
    ] = []  # depth, first prompt, tokens saved by the children so far
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


def plan_batches(
    prompts: Sequence[Prompt], token_budget: int, shards: int = 1, extra_tokens: int = 0
) -> list[Wave]:
    """Arranges prompts into batches of bounded size and few shapes.

    Args:
      prompts: at least one suffix token each.
      token_budget: tokens of a batch, padding included; exceeded only where one row a device is
        more than that.
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
        by_length[max(16, bucket_length(len(prefix))) if prefix else 0].append(prefix)
    waves = []
    for length, prefixes in sorted(by_length.items()):
        size = max(1, token_budget // max(length, 1))
        for start in range(0, len(prefixes), size):
            chosen = prefixes[start : start + size]
            limit = _RowLimit(token_budget, length, shards, extra_tokens)
            batches = _wave_batches(prompts, [by_prefix[prefix] for prefix in chosen], limit)
            padded = min(
                -(-_power_of_two(len(chosen)) // shards) * shards, size
            )  # so that devices share the prefixes
            waves.append(Wave((*chosen, *((),) * (padded - len(chosen))), length, tuple(batches)))
    return waves


@dataclasses.dataclass(frozen=True)
class _RowLimit:
    token_budget: int
    prefix_length: int
    shards: int
    extra_tokens: int

    def run_and_rows(self, group_sizes: Sequence[int], length: int) -> tuple[int, int]:
        """Rows that share one copy of a prefix, and rows of a batch: both powers of two a device.

        Longer runs copy prefixes less often but fill more rows up with nothing; batches stay within
        the token budget, and the copies within _COPY_LIMIT of it.
        """
        per_device = max(
            1, _power_of_two_below(self.token_budget // (length + self.extra_tokens) // self.shards)
        )
        if not self.prefix_length:
            return 1, per_device * self.shards

        def cost(run: int) -> float:
            runs = sum(-(-size // run) for size in group_sizes)
            return runs * (run * (length + self.extra_tokens) + _COPY_COST * self.prefix_length)

        run = min((1 << i for i in range(per_device.bit_length())), key=cost)
        copies = max(
            1,
            _power_of_two_below(
                _COPY_LIMIT * self.token_budget // self.prefix_length // self.shards
            ),
        )
        return run, min(per_device, copies * run) * self.shards


def _wave_batches(
    prompts: Sequence[Prompt], groups: list[list[int]], limit: _RowLimit
) -> Iterator[Batch]:
    """Full batches of each suffix length; what is left over joins the next longer ones, unless it
    would be padded too much.
    """
    by_length: dict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in groups])
    for group, indices in enumerate(groups):
        for index in indices:
            by_length[bucket_length(len(prompts[index].suffix))][group].append(index)
    lengths = sorted(by_length)
    waiting: list[list[int]] = [[] for _ in groups]
    for length, following in zip(lengths, [*lengths[1:], None]):
        waiting = [left + new for left, new in zip(waiting, by_length[length])]
        run, rows = limit.run_and_rows([len(left) for left in waiting], length)
        runs = [
            (g, left[i : i + run])
            for g, left in enumerate(waiting)
            for i in range(0, len(left), run)
        ]
        runs.sort(key=lambda piece: -len(piece[1]))
        keep = len(runs) % (rows // run) if following is not None and following <= 2 * length else 0
        for start in range(0, len(runs) - keep, rows // run):
            yield _batch(
                runs[start : min(start + rows // run, len(runs) - keep)], run, length, limit
            )
        waiting = [[] for _ in groups]
        for group, indices in runs[len(runs) - keep :]:
            waiting[group] += indices


def _batch(runs: list[tuple[int, list[int]]], run: int, length: int, limit: _RowLimit) -> Batch:
    """One batch, filled up with empty rows to a power of two a device."""
    count = max(run, _power_of_two(-(-len(runs) * run // limit.shards))) * limit.shards
    rows = np.full((count // run, run), -1)
    for place, (_, indices) in zip(rows, runs):
        place[: len(indices)] = indices
    prefixes = np.zeros(count // run if limit.prefix_length else 1, np.int32)
    prefixes[: len(runs)] = [group for group, _ in runs][: len(prefixes)]
    return Batch(prefixes, rows.reshape(-1), length)


def _power_of_two_below(n: int) -> int:
    """The largest power of two that is not above n; 0 for 0."""
    return _power_of_two(n + 1) // 2
