r"""Masked image restoration (Zhu et al. 2024, Fig. 8): 30 % of an image's local words are hidden,
the language model fills them in.

The paper is silent on the prompt. Ours shows the grid with a mask word where a word is hidden, then
the whole grid again:

    Restore the missing words.\n###\nInput: < {words, raster order, hidden ones as the mask word}
    >\nOutput: < {all words}

In the second grid the known words are given and only the hidden ones are predicted, one after
another. The model so reads what is left of and above a hidden word just before it, and what comes
after it at one fixed distance back, where attention finds it.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.llm.llama import Llama, with_room
from v2l_jax.llm.lora import Adapters
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.parallel.mesh import batch_shards, shard_batch
from v2l_jax.progress import progress_bar

_START = "Restore the missing words.\n###\nInput: <"
_MIDDLE = " >\nOutput: <"


@dataclasses.dataclass(frozen=True, eq=False)
class RestorationPrompt:
    """The task in one language model's tokens.

    Attributes:
      start: tokens before the masked grid.
      middle: tokens between the grids.
      mask_id: the token that stands for a hidden word.
      word_ids: int32 [words], the token of each local word.
    """

    start: tuple[int, ...]
    middle: tuple[int, ...]
    mask_id: int
    word_ids: Int[np.ndarray, " words"]

    @classmethod
    def build(
        cls, tokenizer: TextTokenizer, local_words: Codebook, mask_text: str
    ) -> "RestorationPrompt":
        """Writes the task in the tokens of `tokenizer`.

        Raises:
          ConfigError: `mask_text`, or a local word, is not one token.
        """
        mask_id, word_ids = (
            mask_token(tokenizer, mask_text),
            SingleTokens.of(local_words).token_ids,
        )
        return cls(
            tuple(tokenizer.encode_prompt(_START)),
            tuple(tokenizer.encode(_MIDDLE)),
            mask_id,
            word_ids,
        )

    def check_length(self, positions: int, context_length: int) -> None:
        """Raises DataError where the text of images of `positions` local words is longer than the
        model's context, in tokens.
        """
        length = len(self.start) + len(self.middle) + 2 * positions
        if length > context_length:
            raise DataError(
                f"an image of {positions} local words makes a text of {length} tokens, but the language model's context has "
                f"{context_length}; choose another one"
            )

    def questions(
        self, ids: Int[np.ndarray, "images n"], masks: Bool[np.ndarray, "images n"]
    ) -> Int[np.ndarray, "images length"]:
        """The text up to where the second grid begins; `ids` are rows of the local codebook, -1 is
        hidden whatever its mask.
        """
        shown = np.where(masks | (ids < 0), self.mask_id, self.word_ids[ids])
        repeat = lambda part: np.broadcast_to(np.asarray(part, np.int32), (len(ids), len(part)))
        return np.concatenate([repeat(self.start), shown, repeat(self.middle)], axis=1).astype(
            np.int32
        )

    def texts(
        self, ids: Int[np.ndarray, "images n"], masks: Bool[np.ndarray, "images n"]
    ) -> dict[str, np.ndarray]:
        """The whole text, as a batch of `finetuning.adapter_step`: tokens [images, length], targets
        [images, hidden words].

        Every image must hide as many words as the others.
        """
        question = self.questions(ids, masks)
        targets = np.nonzero(masks)[1].reshape(len(ids), -1) + question.shape[1]
        return {
            "tokens": np.concatenate([question, self.word_ids[ids]], axis=1),
            "targets": targets.astype(np.int32),
        }


def mask_token(tokenizer: TextTokenizer, mask_text: str) -> int:
    """The token of the mask word; raises ConfigError where it is not one."""
    ids = tokenizer.encode(mask_text)
    if len(ids) != 1:
        raise ConfigError(
            f"the mask word {mask_text!r} is {len(ids)} tokens of this language model; choose a word of one token"
        )
    return ids[0]


def draw_masks(
    images: int, positions: int, share: float, seed: tuple[int, ...]
) -> Bool[np.ndarray, "images positions"]:
    """Which words are hidden: round(share · positions) of each image, a function of the seed and
    the image's number alone.

    Args:
      images: how many images.
      positions: local words of an image.
      share: of the words that are hidden; at least one is.
      seed: entropy of the draw.
    """
    hidden = max(1, round(share * positions))
    masks = np.zeros((images, positions), bool)
    for image, mask in enumerate(masks):
        mask[np.random.default_rng((*seed, image)).permutation(positions)[:hidden]] = True
    return masks


class MaskedImages(Iterator):
    """Endless training batches: images in a new order each epoch, new masks each step; a function
    of seed and step alone.

    Args:
      prompt: how the task is written.
      ids: local words of the training images.
      share: of the words that are hidden.
      batch_size: images of a step, over all processes.
      seed: of order and masks.
      rows: which images of a batch this process gets (`parallel.mesh.local_rows`).

    Raises:
      DataError: there are fewer images than a batch holds.
    """

    def __init__(
        self,
        prompt: RestorationPrompt,
        ids: Int[np.ndarray, "images n"],
        share: float,
        batch_size: int,
        seed: int,
        rows: Int[np.ndarray, " rows"],
    ):
        if len(ids) < batch_size:
            raise DataError(
                f"a batch of {batch_size} images needs as many training photos, but there are {len(ids)}; lower the batch size"
            )
        self._prompt, self._ids, self._share, self._batch_size, self._seed, self._rows = (
            prompt,
            ids,
            share,
            batch_size,
            seed,
            rows,
        )
        self._step = 0

    def __next__(self) -> dict[str, np.ndarray]:
        epoch, batch = divmod(self._step, len(self._ids) // self._batch_size)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._ids))
        images = order[batch * self._batch_size :][: self._batch_size]
        masks = draw_masks(
            len(images), self._ids.shape[1], self._share, (self._seed, 1, self._step)
        )
        self._step += 1
        return self._prompt.texts(self._ids[images[self._rows]], masks[self._rows])

    def get_state(self) -> int:
        """Steps drawn."""
        return self._step

    def set_state(self, step: int) -> None:
        """Goes on after `step` steps."""
        self._step = step


def restore(
    model: Llama,
    params: Any,
    prompt: RestorationPrompt,
    context: Int[np.ndarray, "images n"],
    masks: Bool[np.ndarray, "images n"],
    *,
    batch_size: int,
    adapters: Adapters | None = None,
    mesh: Mesh | None = None,
    description: str = "restoring",
) -> Int[np.ndarray, "images n"]:
    """Fills in hidden words greedily, in raster order, each knowing those filled in before; only
    local words are allowed.

    Args:
      model: the language model.
      params: its parameters, placed on the mesh.
      prompt: how the task is written.
      context: rows of the local codebook; -1 shows the mask word in both grids.
      masks: what is hidden.
      batch_size: images at a time, rounded up to the mesh.
      adapters: scaled changes of the model (`lora.scaled`); None for none.
      mesh: batches are split over it; None is one device.
      description: for the progress bar.

    Returns:
      Rows of the local codebook: predictions where hidden, `context` elsewhere.

    Raises:
      DataError: the text does not fit the model's context.
    """
    prompt.check_length(context.shape[1], model.config.context_length)
    shards = batch_shards(mesh) if mesh else 1
    size = -(-min(batch_size, len(context)) // shards) * shards
    allowed = prompt.word_ids != prompt.mask_id
    given = np.where(context < 0, prompt.mask_id, prompt.word_ids[context])
    restored = []
    for start in progress_bar(range(0, len(context), size), description, "batch"):
        rows = np.arange(start, start + size) % len(context)
        batch = (prompt.questions(context[rows], masks[rows]), given[rows], masks[rows])
        batch = shard_batch(batch, mesh) if mesh else batch
        filled = np.asarray(
            _fill(
                model, params, adapters, jnp.asarray(prompt.word_ids), jnp.asarray(allowed), *batch
            )
        )
        restored.append(np.where(masks[rows], filled, context[rows])[: len(context) - start])
    return np.concatenate(restored)


@functools.partial(jax.jit, static_argnums=0)
def _fill(
    model: Llama,
    params: Any,
    adapters: Adapters | None,
    word_ids: Int[Array, " words"],
    allowed: Bool[Array, " words"],
    questions: Int[Array, "images length"],
    given: Int[Array, "images n"],
    masks: Bool[Array, "images n"],
) -> Int[Array, "images n"]:
    """The likeliest allowed word at each position, given the words before it: known ones as given,
    hidden ones as predicted.
    """
    images, start = questions.shape
    apply = functools.partial(model.apply, {"params": params})
    forward = functools.partial(apply, adapters=adapters)
    hidden, cache = forward(
        questions, jnp.broadcast_to(jnp.arange(start), questions.shape), keep=True
    )

    def step(carry, xs):
        hidden, cache = carry
        position, given, mask = xs
        logits = apply(hidden, method="logits")[:, word_ids]
        word = jnp.where(allowed, logits, -jnp.inf).argmax(-1)
        token = jnp.where(mask, word_ids[word], given)
        hidden, cache = forward(token[:, None], jnp.full((images, 1), start + position), (), cache)
        return (hidden[:, 0], cache), word

    n = given.shape[1]
    carry = (hidden[:, -1], with_room(cache, n))
    return lax.scan(step, carry, (jnp.arange(n), given.T, masks.T))[1].T


def most_frequent_word(ids: Int[np.ndarray, "images *n"]) -> int:
    """The commonest local word of the training images: a baseline that looks at no image."""
    return int(np.bincount(ids.ravel()).argmax())


def frequency_nats(
    train_ids: Int[np.ndarray, "photos *n"],
    ids: Int[np.ndarray, "images n"],
    masks: Bool[np.ndarray, "images n"],
    words: int,
) -> Float[np.ndarray, " images"]:
    """Mean -log p of each image's hidden words, p being their frequency in the training images, one
    added to every count.
    """
    counts = np.bincount(train_ids.ravel(), minlength=words) + 1
    nats = np.log(counts.sum()) - np.log(counts[ids])
    return (nats * masks).sum(1) / masks.sum(1)


def copy_nearest(
    ids: Int[np.ndarray, "images n"], masks: Bool[np.ndarray, "images n"], grid: tuple[int, int]
) -> Int[np.ndarray, "images n"]:
    """A baseline: each hidden word becomes the nearest known one of its image (Euclidean distance
    on the grid).
    """
    from scipy import ndimage

    filled = np.empty_like(ids)
    for row, (words, mask) in enumerate(zip(ids, masks)):
        nearest = ndimage.distance_transform_edt(
            mask.reshape(grid), return_distances=False, return_indices=True
        )
        filled[row] = words.reshape(grid)[tuple(nearest)].ravel()
    return filled
