"""The device side of decoding: pure functions of (model, params, arrays), static shapes, no host in
the loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from v2l_jax.llm.generation_rules import RowRules, SharedRules
from v2l_jax.llm.grammar import Grammar
from v2l_jax.llm.llama import KVCache, Llama, with_room
from v2l_jax.llm.llama_sharding import cache_spec
from v2l_jax.llm.token_trie import TokenTrie

NOT_FINITE = -2
"""Stands for the token of a row whose logits are not finite: their largest would mean nothing."""

_LOGITS_CHUNK = 512  # rows of [rows, vocabulary] logits held at a time


def prefill_prefixes(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    tokens: Int[Array, "prefixes length"],
    lengths: Int[Array, " prefixes"],
) -> KVCache:
    """Keys and values of right-padded prefixes, each computed once."""
    return _placed(
        model.apply({"params": params}, tokens, _positions(tokens, lengths), keep=True)[1], mesh
    )


def joined(caches: Sequence[KVCache]) -> KVCache:
    """The rows of all, one cache's after another's; all have as many slots."""
    join = lambda axis, *arrays: jnp.concatenate(arrays, axis)
    parts = list(zip(*caches))
    return KVCache(join(1, *parts[0]), join(1, *parts[1]), join(0, *parts[2]), caches[0].cursor)


def score_candidates(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    contexts: tuple[KVCache, ...],
    chosen: Int[Array, " chosen"],
    tokens: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    starts: Int[Array, " batch"],
    candidates: Int[Array, "batch candidates steps"],
    candidate_lengths: Int[Array, "batch candidates"],
) -> Float[Array, "batch candidates"]:
    """Summed log-likelihoods of right-padded candidate continuations.

    Args:
      model: the network.
      mesh: what keys and values are spread over; None is one device.
      params: its parameters.
      contexts: computed prefixes; empty where there are none.
      chosen: which prefix each of equally long runs of rows begins with.
      tokens: right-padded suffixes.
      lengths: tokens of each suffix.
      starts: tokens of each row's prefix.
      candidates: right-padded continuations.
      candidate_lengths: tokens of each continuation; 0 for none.
    """
    batch, count, steps = candidates.shape
    contexts = _select(contexts, chosen, mesh)
    logits, cache = _prefill(model, mesh, params, contexts, tokens, lengths, starts, keep=steps > 1)
    first = jnp.take_along_axis(jax.nn.log_softmax(logits), candidates[:, :, 0], axis=1)
    scores = jnp.where(candidate_lengths > 0, first, 0.0)
    if steps == 1:
        return scores
    # The prompt's own cache is the second shared context of its candidates.
    fed = candidates[:, :, :-1].reshape(batch * count, steps - 1)
    fed_lengths = jnp.maximum(candidate_lengths - 1, 0).reshape(-1)
    positions = _positions(fed, fed_lengths, jnp.repeat(starts + lengths, count))
    hidden, _ = model.apply({"params": params}, fed, positions, (*contexts, cache))
    log_probs = _log_probs(
        model, params, hidden.reshape(-1, hidden.shape[-1]), candidates[:, :, 1:].reshape(-1)
    )
    log_probs = jnp.where(positions >= 0, log_probs.reshape(fed.shape), 0.0)
    return scores + log_probs.sum(-1).reshape(batch, count)


def choose_by_trie(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    contexts: tuple[KVCache, ...],
    chosen: Int[Array, " chosen"],
    tokens: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    starts: Int[Array, " batch"],
    trie: TokenTrie,
    *,
    steps: int,
) -> Int[Array, " batch"]:
    """Greedy walk down each row's trie; returns the answers at the leaves, NOT_FINITE where a row's
    logits are not.

    Args:
      model, mesh, params, contexts, chosen, tokens, lengths, starts: as for `score_candidates`.
      trie: allowed tokens of each row.
      steps: the most forward passes after the first; 0 where first tokens decide.
    """
    at = jnp.arange(tokens.shape[0])

    def pick(node, logits, step):
        del step
        allowed = trie.tokens[at, node]
        scores = _among(logits, allowed)
        best = scores.argmax(-1)
        child = trie.children[at, node, best]
        token, broken = _checked(allowed[at, best], scores)
        return token, child, broken | (trie.tokens[at, child, 0] < 0)

    contexts = _select(contexts, chosen, mesh)
    leaves, new = _decode(
        model,
        mesh,
        params,
        contexts,
        tokens,
        lengths,
        starts,
        pick,
        jnp.zeros_like(at),
        steps,
        jnp.zeros_like(at, bool),
    )
    return jnp.where((new == NOT_FINITE).any(1), NOT_FINITE, trie.answers[at, leaves])


def generate(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    contexts: tuple[KVCache, ...],
    chosen: Int[Array, " chosen"],
    tokens: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    starts: Int[Array, " batch"],
    rows: RowRules,
    shared: SharedRules,
    *,
    max_new_tokens: int,
) -> Int[Array, "batch new"]:
    """Tokens of each row, with the one that ended it, -1 after that; NOT_FINITE ends a row whose
    logits are not.

    Args:
      model, mesh, params, contexts, chosen, tokens, lengths, starts: as for `score_candidates`.
      rows: what each row may write.
      shared: what all rows may write and where they end.
      max_new_tokens: the most tokens of a row.
    """

    def pick(state, logits, step):
        ids = None if rows.allowed is None else rows.allowed[:, step]
        if shared.vocabulary is not None:
            logits = jnp.where(shared.vocabulary, logits, -jnp.inf)
        if ids is not None:
            logits = _among(logits, ids)
        choice = logits.argmax(-1)
        token = choice if ids is None else jnp.take_along_axis(ids, choice[:, None], axis=1)[:, 0]
        state, ended = shared.follow(state, token)
        token, broken = _checked(token, logits)
        return token, state, ended | broken | (step + 1 >= rows.limits)

    contexts = _select(contexts, chosen, mesh)
    state, done = jnp.zeros_like(starts), rows.limits == 0
    _, new = _decode(
        model,
        mesh,
        params,
        contexts,
        tokens,
        lengths,
        starts,
        pick,
        state,
        max_new_tokens - 1,
        done,
    )
    return new


def follow_grammar(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    contexts: tuple[KVCache, ...],
    chosen: Int[Array, " chosen"],
    tokens: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    starts: Int[Array, " batch"],
    grammar: Grammar,
    *,
    max_new_tokens: int,
) -> tuple[Int[Array, "batch new"], Float[Array, "batch new"]]:
    """The likeliest permitted token of each row and step, -1 after a row's end, NOT_FINITE where
    its logits are not; and the log-likelihood of each among all tokens.

    Args:
      model, mesh, params, contexts, chosen, tokens, lengths, starts: as for `score_candidates`.
      grammar: the same for all rows.
      max_new_tokens: the most tokens of a row.
    """
    at = jnp.arange(tokens.shape[0])

    def pick(state, logits, step):
        node, found = state
        allowed = grammar.tokens[node]
        scores = _among(logits, allowed)
        best = scores.argmax(-1)
        token, broken = _checked(allowed[at, best], scores)
        found = found.at[:, step].set(scores[at, best] - jax.nn.logsumexp(logits, axis=-1))
        node = grammar.following[node, best]
        return token, (node, found), broken | (grammar.tokens[node, 0] < 0)

    contexts = _select(contexts, chosen, mesh)
    state = jnp.zeros_like(starts), jnp.zeros((tokens.shape[0], max_new_tokens))
    (_, found), new = _decode(
        model,
        mesh,
        params,
        contexts,
        tokens,
        lengths,
        starts,
        pick,
        state,
        max_new_tokens - 1,
        jnp.zeros_like(at, bool),
    )
    return new, found


def _among(
    logits: Float[Array, "batch vocabulary"], allowed: Int[Array, "batch choices"]
) -> Float[Array, "batch choices"]:
    """The logits of each row's allowed tokens; minus infinity where `allowed` is -1, for none."""
    chosen = jnp.take_along_axis(logits, jnp.maximum(allowed, 0), axis=1)
    return jnp.where(allowed >= 0, chosen, -jnp.inf)


def _checked(
    token: Int[Array, " batch"], logits: Float[Array, "batch choices"]
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """NOT_FINITE in place of tokens that were chosen from logits with NaN or infinity, and which
    these are.
    """
    broken = ~jnp.isfinite(logits.max(-1))
    return jnp.where(broken, NOT_FINITE, token), broken


def _decode(
    model: Llama,
    mesh: Mesh | None,
    params: Any,
    contexts,
    tokens,
    lengths,
    starts,
    pick: Callable,
    state: Any,
    steps: int,
    done: Array,
) -> tuple[Any, Int[Array, "batch new"]]:
    """Prefill, then one token a row and step until all rows are done; done rows keep their state.

    Args:
      pick: (state, logits, step) -> (token, next state, done), a row each.
      steps: forward passes after the prefill, at most.
    """
    logits, cache = _prefill(model, mesh, params, contexts, tokens, lengths, starts, keep=steps > 0)
    new = jnp.full((tokens.shape[0], steps + 1), -1, jnp.int32)

    def advance(step, logits, state, done, new):
        token, following, ended = pick(state, logits, step)
        keep = lambda old, fresh: jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), old, fresh)
        new = new.at[:, step].set(jnp.where(done, -1, token))
        return jax.tree.map(keep, state, following), done | ended, new

    def one_step(loop):
        step, cache, state, done, new = loop
        positions = jnp.where(done, -1, starts + lengths + step)[:, None]
        hidden, cache = model.apply(
            {"params": params}, jnp.maximum(new[:, step], 0)[:, None], positions, contexts, cache
        )
        logits = model.apply({"params": params}, hidden[:, 0], method="logits")
        return step + 1, cache, *advance(step + 1, logits, state, done, new)

    state, done, new = advance(0, logits, state, done, new)
    if steps:
        unfinished = lambda loop: (loop[0] < steps) & ~loop[3].all()
        loop = (0, with_room(cache, steps), state, done, new)
        _, _, state, done, new = lax.while_loop(unfinished, one_step, loop)
    return state, new


def _prefill(
    model, mesh, params, contexts, tokens, lengths, starts, keep: bool
) -> tuple[Float[Array, "batch vocab"], KVCache | None]:
    """Logits after the last token of each row; the rows' keys and values where they are to be
    kept.
    """
    hidden, cache = model.apply(
        {"params": params}, tokens, _positions(tokens, lengths, starts), contexts, keep=keep
    )
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    return model.apply({"params": params}, last, method="logits"), cache and _placed(cache, mesh)


def _positions(tokens: Array, lengths: Array, starts: Array | int = 0) -> Int[Array, "rows length"]:
    """Positions of right-padded rows that begin at `starts`; -1 at padding."""
    offsets = jnp.arange(tokens.shape[1])[None]
    return jnp.where(offsets < lengths[:, None], jnp.asarray(starts)[..., None] + offsets, -1)


def _select(
    contexts: tuple[KVCache, ...], chosen: Int[Array, " chosen"], mesh: Mesh | None
) -> tuple[KVCache, ...]:
    """The prefixes that a batch begins with, one for each run of rows."""
    return tuple(
        _placed(
            KVCache(c.keys[:, chosen], c.values[:, chosen], c.positions[chosen], c.cursor), mesh
        )
        for c in contexts
    )


def _placed(cache: KVCache, mesh: Mesh | None) -> KVCache:
    """Keeps keys and values where their rows and heads are computed."""
    if mesh is None:
        return cache
    spec = cache_spec(cache.keys.shape, mesh)
    keep = lambda array, spec: lax.with_sharding_constraint(array, NamedSharding(mesh, spec))
    return KVCache(
        keep(cache.keys, spec),
        keep(cache.values, spec),
        keep(cache.positions, PartitionSpec(spec[1])),
        cache.cursor,
    )


def _log_probs(
    model, params, hidden: Float[Array, "rows hidden"], targets: Int[Array, " rows"]
) -> Float[Array, " rows"]:
    """log p(target) of each row, a chunk of the [rows, vocabulary] logits at a time."""

    def one(row):
        logits = model.apply({"params": params}, row[0], method="logits")
        return logits[row[1]] - jax.nn.logsumexp(logits)

    return lax.map(one, (hidden, targets), batch_size=_LOGITS_CHUNK)
