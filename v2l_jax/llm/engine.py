"""Prompts in, answers out: batched scoring, constrained choice and generation by a frozen language
model.

Prompts that begin alike share one computed prefix; suffixes are padded to a few lengths; everything
else runs on the device in static shapes.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from v2l_jax.errors import DataError
from v2l_jax.llm import token_trie
from v2l_jax.llm.engine_steps import (
    NOT_FINITE,
    choose_by_trie,
    follow_grammar,
    generate,
    joined,
    prefill_prefixes,
    score_candidates,
)
from v2l_jax.llm.generation_rules import AllowedTokens, RowRules, shared_rules
from v2l_jax.llm.grammar import Grammar
from v2l_jax.llm.llama import KVCache, Llama
from v2l_jax.llm.llama_sharding import place_params
from v2l_jax.llm.prompt_batches import (
    Batch,
    PrefixCache,
    Prompt,
    Wave,
    bucket_length,
    plan_batches,
    share_prefixes,
)
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.parallel.mesh import batch_sharding, batch_shards, replicate
from v2l_jax.progress import progress_bar

TokenIds = Sequence[int]


class LLMEngine:
    """A frozen language model that answers many prompts at once.

    Attributes:
      model: the network.
      params: its parameters; over a mesh that the caller has not placed them on, they are placed by
        `llama_sharding.TENSOR_RULES`.
      mesh: batches are split over its batch axes, matrices and key/value heads over its "tensor"
        axis; None is one device.
      token_budget: tokens of a batch, padding included.
      vocabulary: ids that `generate` chooses from where a call does not say; None is all of the
        model's. An embedding table may have more rows than its tokenizer has tokens.
      compilations: how many programs have been compiled, one a distinct shape.
    """

    def __init__(
        self,
        model: Llama,
        params: Any,
        mesh: Mesh | None = None,
        token_budget: int = 4096,
        vocabulary: Sequence[int] | None = None,
    ):
        self.model = model
        self.params = (
            params if mesh is None or _is_placed(params, mesh) else place_params(params, mesh)
        )
        self.mesh = mesh
        self.token_budget = token_budget
        self.vocabulary = vocabulary
        self.compilations = 0
        self._slots: dict[bytes, int] = {}
        self._slot_table: tuple[int, Any] = (0, None)
        self._prefill = self._counted(prefill_prefixes)
        self._join = jax.jit(joined)
        self._score = self._counted(score_candidates)
        self._choose = self._counted(choose_by_trie, "steps")
        self._generate = self._counted(generate, "max_new_tokens")
        self._follow = self._counted(follow_grammar, "max_new_tokens")

    def slot_ids(self, vectors: Float[Any, "slots hidden"]) -> tuple[int, ...]:
        """Ids that stand for vectors in prompts; equal vectors have equal ids.

        Args:
          vectors: in place of embeddings of tokens, as long as these.

        Returns:
          Ids after those of the vocabulary and of new rows, which the parameter "slots" holds from
          the start. Prompts may hold them; answers never do.

        Raises:
          DataError: the vectors have another length, or are not finite.
        """
        rows, hidden = np.asarray(vectors, np.float32), self.model.config.hidden_size
        if rows.ndim != 2 or rows.shape[1] != hidden or not np.isfinite(rows).all():
            raise DataError(
                f"vectors of shape {rows.shape} cannot stand in a prompt: the language model wants "
                f"finite ones of length {hidden}"
            )
        first = self.model.config.vocab_size + len(self.params.get("slots", ()))
        return tuple(first + self._slots.setdefault(r.tobytes(), len(self._slots)) for r in rows)

    def _with_slots(self) -> Any:
        """The parameters, with a table of all vectors that have ids; its length is a power of
        two, so that few programs are compiled.
        """
        count = len(self._slots)
        if not count:
            return self.params
        if self._slot_table[0] != count:
            table = np.zeros((1 << (count - 1).bit_length(), self.model.config.hidden_size), "f")
            table[:count] = [np.frombuffer(row, np.float32) for row in self._slots]
            if "slots" in self.params:
                table = np.concatenate([np.asarray(self.params["slots"], np.float32), table])
            placed = replicate(table, self.mesh) if self.mesh else jax.device_put(table)
            self._slot_table = count, placed
        return {**self.params, "slots": self._slot_table[1]}

    def score_continuations(
        self,
        prompts: Sequence[TokenIds],
        candidates: Sequence[Sequence[TokenIds]],
        description: str = "scoring",
    ) -> list[Float[np.ndarray, " candidates"]]:
        """Log-likelihood of candidate continuations, teacher-forced.

        Args:
          prompts: token ids, at least one each.
          candidates: for each prompt, continuations of at least one token.
          description: for the progress bar.

        Returns:
          For each prompt, Σ log p(token | prompt, tokens before it) of each candidate, float32, in
          nats.

        Raises:
          DataError: a prompt or candidate is empty, or too long for the model's context; or the
            model's logits are not finite.
        """
        if not all(c for prompt in candidates for c in prompt):
            raise DataError(
                "an empty candidate continuation has no likelihood; check the class names' tokens"
            )
        longest = max((len(c) for prompt in candidates for c in prompt), default=1)
        width = max(map(len, candidates), default=1)
        width, length = (
            1 << (width - 1).bit_length(),
            1 if longest == 1 else 1 << (longest - 1).bit_length(),
        )
        scores: list[Any] = [None] * len(prompts)

        def inputs(rows):
            tokens = np.zeros((len(rows), width, length), np.int32)
            lengths = np.zeros((len(rows), width), np.int32)
            for r, index in enumerate(rows):
                for c, candidate in enumerate(candidates[index] if index >= 0 else ()):
                    tokens[r, c, : len(candidate)], lengths[r, c] = candidate, len(candidate)
            return tokens, lengths

        shared = self._checked(prompts, [max(map(len, c), default=0) for c in candidates])
        for index, row in self._run(self._score, shared, inputs, description, width * (length - 1)):
            scores[index] = row[: len(candidates[index])]
            _require_finite(bool(np.isfinite(scores[index]).all()), index)
        return scores

    def choose(
        self,
        prompts: Sequence[TokenIds],
        candidates: Sequence[Sequence[TokenIds]],
        end_id: int | None = None,
        description: str = "choosing",
    ) -> Int[np.ndarray, " prompts"]:
        """Greedy decoding that only allows tokens which continue a candidate; one forward pass
        where first tokens differ.

        Args:
          prompts: token ids, at least one each.
          candidates: for each prompt, different answers.
          end_id: the token that ends an answer; needed only where a candidate is the beginning of
            another.
          description: for the progress bar.

        Returns:
          Index of the candidate that greedy decoding spells, for each prompt.

        Raises:
          DataError: candidates are empty or ambiguous, a prompt is empty or too long for the
            model's context, or the model's logits are not finite.
        """
        sequences = [token_trie.end_ambiguous(c, end_id) for c in candidates]
        starts = [token_trie.common_start(c) for c in sequences]
        shared = self._checked(
            [[*p, *c[0][:s]] for p, c, s in zip(prompts, sequences, starts, strict=True)],
            [max(map(len, c)) for c in sequences],
        )
        tries, decisions = token_trie.build_tries(
            [[c[s:] for c in cs] for cs, s in zip(sequences, starts)]
        )
        chosen = np.zeros(len(prompts), np.int64)

        def inputs(rows):
            real = np.where(rows < 0, rows.max(), rows)
            return (token_trie.TokenTrie(*(table[real] for table in tries)),)

        for index, answer in self._run(
            self._choose, shared, inputs, description, steps=decisions - 1
        ):
            _require_finite(answer != NOT_FINITE, index)
            chosen[index] = answer
        return chosen

    def generate(
        self,
        prompts: Sequence[TokenIds],
        max_new_tokens: int,
        *,
        stop_ids: Sequence[int] = (),
        stop_strings: StopStrings | None = None,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
        vocabulary: Sequence[int] | None = None,
        prefix_cache: PrefixCache | None = None,
        description: str = "generating",
    ) -> list[list[int]]:
        """Continues every prompt greedily: each new token is the likeliest one that is permitted.

        Args:
          prompts: token ids, at least one each.
          max_new_tokens: the most tokens to generate.
          stop_ids: tokens that end an answer; they are not part of it. Without any, an end token is
            a token like others.
          stop_strings: an answer ends before the first of them; a token that one begins inside is
            dropped (`generate_text` gives the exact text).
          allowed: ids permitted at step i of prompt p: `allowed[p][i]`, the published per-position
            mask. An answer has at most as many tokens as its prompt has steps.
          vocabulary: ids permitted at every step of every prompt.
          prefix_cache: prefixes that are not to be computed again; every prompt begins with one,
            and has more.
          description: for the progress bar.

        Returns:
          New token ids of each prompt, at most `max_new_tokens`.

        Raises:
          DataError: a prompt is empty or too long for the model's context, a step permits no
            token, or the model's logits are not finite.
        """
        rules = dict(
            stop_ids=stop_ids, stop_strings=stop_strings, allowed=allowed, vocabulary=vocabulary
        )
        answers = self._generated(prompts, max_new_tokens, description, prefix_cache, **rules)
        return [stop_strings.tokens_before(ids) for ids in answers] if stop_strings else answers

    def generate_text(
        self,
        prompts: Sequence[TokenIds],
        max_new_tokens: int,
        *,
        stop_strings: StopStrings,
        description: str = "generating",
        **rules: Any,
    ) -> list[str]:
        """The texts before the first stop string, exact even where it begins inside a token.

        Args:
          prompts, max_new_tokens, stop_strings, description: as for `generate`.
          rules: `stop_ids`, `allowed`, `vocabulary` of `generate`.

        Returns:
          Each answer as it was written, with the space it may begin with; special tokens write
          nothing.

        Raises:
          DataError: as for `generate`.
        """
        answers = self._generated(
            prompts, max_new_tokens, description, None, stop_strings=stop_strings, **rules
        )
        return [stop_strings.text_before(ids) for ids in answers]

    def follow(
        self,
        prompts: Sequence[TokenIds],
        grammar: Grammar,
        max_new_tokens: int,
        description: str = "writing",
    ) -> list[tuple[list[int], Float[np.ndarray, " new"]]]:
        """Continues every prompt greedily by what a grammar permits.

        Args:
          prompts: token ids, at least one each.
          grammar: what may be written.
          max_new_tokens: where an answer is cut that has not ended.
          description: for the progress bar.

        Returns:
          For each prompt the tokens, what ends it included, and the log-likelihood of each among
          all tokens of the vocabulary, in nats.

        Raises:
          DataError: a prompt is empty or too long for the model's context, or the model's logits
            are not finite.
        """
        shared = self._checked(prompts, [max_new_tokens] * len(prompts))
        placed = replicate(grammar, self.mesh) if self.mesh else jax.device_put(grammar)
        answers: list[Any] = [None] * len(prompts)
        for index, (ids, found) in self._run(
            self._follow,
            shared,
            lambda rows: (),
            description,
            constants=(placed,),
            max_new_tokens=max_new_tokens,
        ):
            _require_finite(NOT_FINITE not in ids, index)
            count = int(np.sum(ids >= 0))
            answers[index] = ids[:count].tolist(), found[:count]
        return answers

    def cache_prefixes(self, prefixes: Sequence[TokenIds]) -> PrefixCache:
        """Computes prefixes whose prompts `generate` will be asked to finish, in as many batches as
        the token budget wants.

        Args:
          prefixes: token ids, at least one each.

        Raises:
          DataError: a prefix is empty or too long for the model's context.
        """
        self.check_lengths(prefixes, 0)
        distinct = list(dict.fromkeys(map(tuple, prefixes)))
        length = bucket_length(max(map(len, distinct)))
        batches, shards = (
            -(-len(distinct) // max(1, self.token_budget // length)),
            batch_shards(self.mesh) if self.mesh else 1,
        )
        size = (
            -(-len(distinct) // batches // shards) * shards
        )  # batches of equal size waste the least
        padded = distinct + [()] * (-len(distinct) % size)
        parts = [
            self._computed(padded[start : start + size], length)
            for start in range(0, len(padded), size)
        ]
        return PrefixCache({prefix: row for row, prefix in enumerate(distinct)}, self._join(parts))

    def check_lengths(self, prompts: Sequence[TokenIds], new_tokens: int | Sequence[int]) -> None:
        """Checks that prompts and their answers fit the model's context.

        Args:
          prompts: token ids.
          new_tokens: the most tokens of an answer, of all prompts or of each.

        Raises:
          DataError: prompts that are empty, or too long, with their lengths.
        """
        if not all(len(p) for p in prompts):
            raise DataError(
                "an empty prompt has no next token; begin it with the tokenizer's bos token or "
                "with text"
            )
        limit = self.model.config.context_length
        new = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else new_tokens
        lengths = [len(p) + n for p, n in zip(prompts, new, strict=True)]
        too_long = [f"prompt {i}: {n}" for i, n in enumerate(lengths) if n > limit]
        if too_long:
            raise DataError(
                f"{len(too_long)} of {len(prompts)} prompts do not fit the model's context of "
                f"{limit} tokens, answer included"
                f" ({', '.join(too_long)}); use fewer shots or fewer tokens an image"
            )

    def _generated(
        self,
        prompts: Sequence[TokenIds],
        max_new_tokens: int,
        description: str,
        prefix_cache: PrefixCache | None,
        stop_ids: Sequence[int] = (),
        stop_strings: StopStrings | None = None,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
        vocabulary: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Answers without the stop token, but with the tokens of the stop string."""
        vocab_size = self.model.config.vocab_size
        vocabulary = self.vocabulary if vocabulary is None else vocabulary
        shared = shared_rules(vocab_size, stop_ids, stop_strings, vocabulary)
        masks = (
            None
            if allowed is None
            else AllowedTokens(allowed, len(prompts), max_new_tokens, vocab_size, shared.vocabulary)
        )
        limits = np.asarray(
            [max_new_tokens] * len(prompts) if masks is None else masks.lengths, np.int32
        )
        self.check_lengths(prompts, limits.tolist())
        shared = replicate(shared, self.mesh) if self.mesh else jax.device_put(shared)

        def inputs(rows):
            return (
                RowRules(
                    np.where(rows < 0, 0, limits[rows]), None if masks is None else masks.rows(rows)
                ),
            )

        answers: list[list[int]] = [[] for _ in prompts]
        cut = prefix_cache.cut(prompts) if prefix_cache else share_prefixes(prompts)
        options = dict(
            constants=(shared,), prefix_cache=prefix_cache, max_new_tokens=max_new_tokens
        )
        for index, row in self._run(self._generate, cut, inputs, description, **options):
            _require_finite(NOT_FINITE not in row, index)
            ended = np.flatnonzero((row < 0) | np.isin(row, list(stop_ids)))
            answers[index] = row[: ended[0] if len(ended) else None].tolist()
        return answers

    def _checked(self, prompts: Sequence[TokenIds], new_tokens: Sequence[int]) -> list[Prompt]:
        """Cuts prompts into shared prefix and rest, if they all fit the context."""
        self.check_lengths(prompts, new_tokens)
        return share_prefixes(prompts)

    def _run(
        self,
        function: Callable,
        prompts: Sequence[Prompt],
        inputs: Callable[[np.ndarray], tuple],
        description: str,
        extra_tokens: int = 0,
        constants: tuple = (),
        prefix_cache: PrefixCache | None = None,
        **static: Hashable,
    ) -> Iterator[tuple[int, Any]]:
        """Runs a batched function over all prompts; yields (prompt index, its row of the
        result).
        """
        waves = plan_batches(
            prompts, self.token_budget, batch_shards(self.mesh) if self.mesh else 1, extra_tokens
        )
        waiting: tuple[Batch, Any] | None = None
        for wave, batch in progress_bar(
            [(w, b) for w in waves for b in w.batches], description, "batch"
        ):
            if batch is wave.batches[0]:
                contexts, places = self._contexts(wave, prefix_cache)
            arrays = self._rows(prompts, wave, batch, inputs)
            result = function(
                self._with_slots(), contexts, places[batch.prefixes], *arrays, *constants, **static
            )
            if (
                waiting is not None
            ):  # the host prepares a batch while the device runs the one before
                yield from _collect(*waiting)
            waiting = (batch, result)
        if waiting is not None:
            yield from _collect(*waiting)

    def _contexts(
        self, wave: Wave, prefix_cache: PrefixCache | None
    ) -> tuple[tuple[KVCache, ...], Int[np.ndarray, " prefixes"]]:
        """What holds the wave's prefixes, and in which row each is."""
        places = np.arange(max(len(wave.prefixes), 1), dtype=np.int32)
        if prefix_cache is not None:
            return (prefix_cache.cache,), np.asarray(
                [prefix_cache.rows.get(p, 0) for p in wave.prefixes], np.int32
            )
        return ((self._computed(wave.prefixes, wave.length),) if wave.length else ()), places

    def _computed(self, prefixes: Sequence[TokenIds], length: int) -> KVCache:
        arrays = _padded_tokens(prefixes, length)
        if self.mesh and len(prefixes) % batch_shards(self.mesh) == 0:
            arrays = jax.device_put(arrays, batch_sharding(self.mesh))
        return self._prefill(self._with_slots(), *arrays)

    def _rows(self, prompts: Sequence[Prompt], wave: Wave, batch: Batch, inputs: Callable) -> tuple:
        suffixes = [prompts[i].suffix if i >= 0 else () for i in batch.rows]
        tokens, lengths = _padded_tokens(suffixes, batch.length)
        starts = np.asarray([len(prompts[i].prefix) if i >= 0 else 0 for i in batch.rows], np.int32)
        arrays = (tokens, lengths, starts, *inputs(batch.rows))
        return jax.device_put(arrays, batch_sharding(self.mesh) if self.mesh else None)

    def _counted(self, function: Callable, *static: str) -> Callable:
        def traced(*args, **kwargs):
            self.compilations += 1
            return function(self.model, self.mesh, *args, **kwargs)

        return jax.jit(traced, static_argnames=static)


def _require_finite(finite: bool | np.bool_, index: int) -> None:
    if not finite:
        raise DataError(
            f"prompt {index}: the language model's logits are not finite (NaN or infinity), so "
            "they choose no token; its weights may be damaged, or a fast type overflows: try "
            "--config.llm_options.dtype=float32"
        )


def _collect(batch: Batch, result: Any) -> Iterator[tuple[int, Any]]:
    """The prompts of a batch with their row of the result, or of each of its arrays."""
    arrays = jax.tree.map(np.asarray, result)
    for row, index in enumerate(batch.rows):
        if index >= 0:
            yield int(index), jax.tree.map(lambda array, row=row: array[row], arrays)


def _padded_tokens(
    sequences: Sequence[TokenIds], length: int
) -> tuple[Int[np.ndarray, "rows length"], Int[np.ndarray, " rows"]]:
    tokens = np.zeros((len(sequences), length), np.int32)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in sequences], np.int32)


def _is_placed(params: Any, mesh: Mesh) -> bool:
    return all(
        isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)
        for leaf in jax.tree.leaves(params)
    )
