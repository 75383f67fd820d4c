"""Stage 1 of the codebook: the LLM continues each of its subwords to a bigram and a trigram (Zhu et
al. 2024, section 3.2).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import KVCache, Llama, init_cache
from v2l_jax.llm.text_tokenizers import TextTokenizer, existing_ids
from v2l_jax.ops.batches import in_batches

PREFIX = "a photo of"


def prompt_ids(tokenizer: TextTokenizer, subwords: Sequence[int]) -> Int[np.ndarray, " subwords"]:
    """The token that stands for each subword after "a photo of".

    The published prompt is text, `a photo of {t1}`, so a subword follows a space: the word-initial
    twin of a subword stands for it where the vocabulary has one (" dog" for "dog"), else the
    subword itself does.
    """
    twins = {
        tokenizer.token_text(i): i
        for i in range(tokenizer.vocab_size)
        if i not in tokenizer.special_ids
    }
    return np.asarray(
        [twins.get(" " + tokenizer.token_text(i).lstrip(), i) for i in subwords], np.int32
    )


def expand(
    model: Llama,
    params: Any,
    tokenizer: TextTokenizer,
    subwords: Sequence[int],
    batch_size: int = 1024,
) -> Int[np.ndarray, "subwords 2"]:
    """Greedy next tokens t2, t3 of `a photo of {t1}` and `a photo of {t1}{t2}` for every subword
    t1.

    All prompts share the prefilled prefix "a photo of", so a subword costs two tokens of compute,
    not two prompts.

    Args:
      model, params: the frozen language model.
      tokenizer: its tokenizer.
      subwords: token ids of t1.
      batch_size: subwords continued at once.

    Returns:
      int32 [subwords, 2], the ids of t2 and t3; ids for which the tokenizer has no token, such as
      those that pad an embedding table, are never chosen.

    Raises:
      DataError: the model's logits are not finite.
    """
    exists = np.zeros(model.config.vocab_size, bool)
    exists[existing_ids(tokenizer, model.config.vocab_size)] = True
    prefix = jnp.asarray([tokenizer.encode_prompt(PREFIX)], jnp.int32)
    first = prompt_ids(tokenizer, subwords)
    continuation = jax.jit(_continuation, static_argnums=0)
    shared = jax.jit(_prefill, static_argnums=0)(model, params, prefix)
    chosen = in_batches(
        lambda batch: continuation(model, params, shared, batch, jnp.asarray(exists)),
        first,
        size=batch_size,
        description="expanding the vocabulary",
    )
    if (chosen < 0).any():
        word = subwords[int(np.flatnonzero((chosen < 0).any(1))[0])]
        raise DataError(
            f"expanding the vocabulary: after {tokenizer.token_text(word)!r} the language model's "
            "logits are not finite (NaN or infinity); its weights may be damaged, or a fast type "
            "overflows: try --config.llm_options.dtype=float32"
        )
    return chosen


def _prefill(model: Llama, params: Any, prefix: Int[Array, "1 length"]) -> KVCache:
    positions = jnp.arange(prefix.shape[1], dtype=jnp.int32)[None]
    cache = init_cache(model.config, 1, prefix.shape[1], model.dtype)
    return model.apply({"params": params}, prefix, positions, cache=cache)[1]


def _continuation(
    model: Llama,
    params: Any,
    shared: KVCache,
    first: Int[Array, " batch"],
    exists: Bool[Array, " vocabulary"],
) -> Int[Array, "batch 2"]:
    """Greedy t2 and t3, of ids that exist, after the shared prefix and `first`; -1 where logits are
    not finite.
    """
    start, batch = shared.positions.shape[1], first.shape[0]
    cache = init_cache(model.config, batch, 2, model.dtype)
    token, chosen = first, []
    for step in range(2):
        positions = jnp.full((batch, 1), start + step, jnp.int32)
        hidden, cache = model.apply(
            {"params": params}, token[:, None], positions, contexts=(shared,), cache=cache
        )
        logits = model.apply({"params": params}, hidden[:, 0], method="logits")
        logits = jnp.where(exists, logits, -jnp.inf)
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        chosen.append(jnp.where(jnp.isfinite(logits.max(-1)), token, -1))
    return jnp.stack(chosen, axis=1)


def ngram_records(
    tokenizer: TextTokenizer,
    subwords: Sequence[int],
    continuations: Int[np.ndarray, "expanded 2"],
    ngrams: int = 3,
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Texts and token ids of all unigrams, then all bigrams, then all trigrams (t1, t1t2, t1t2t3).

    `continuations` belong to the first of the subwords; the others stay unigrams.
    """
    ids = [(int(word),) for word in subwords]
    for length in range(2, ngrams + 1):
        ids += [
            (word, *map(int, rest[: length - 1])) for word, rest in zip(subwords, continuations)
        ]
    return [tokenizer.decode(tokens) for tokens in ids], ids


def published_records(
    engine: LLMEngine, tokenizer: TextTokenizer, subwords: Sequence[int]
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Texts and token ids of all unigrams, then all bigrams, then all trigrams as the published
    code makes them.

    Every token is decoded alone, which drops the space that a SentencePiece model writes before a
    word, and texts are put together without one: after "a photo of dog" the token "▁house" makes
    the bigram "doghouse". Both prompts are such texts, encoded anew. A token may be any that the
    tokenizer knows; control tokens decode to nothing.

    Args:
      engine: the frozen language model.
      tokenizer: its tokenizer.
      subwords: token ids of t1.
    """
    known = existing_ids(tokenizer, engine.model.config.vocab_size)
    alone = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    texts = [[alone[i] for i in subwords]]
    ids = [[(int(i),) for i in subwords]]
    for name in ("bigrams", "trigrams"):
        prompts = [tokenizer.encode_prompt(f"{PREFIX} {text}") for text in texts[-1]]
        answers = engine.generate(prompts, 1, vocabulary=known, description=f"expanding to {name}")
        new = [int(answer[0]) for answer in answers]
        texts.append([text + alone[i] for text, i in zip(texts[-1], new, strict=True)])
        ids.append([(*before, i) for before, i in zip(ids[-1], new, strict=True)])
    return sum(texts, []), sum(ids, [])
