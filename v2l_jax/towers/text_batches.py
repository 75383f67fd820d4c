"""Runs a text encoder over many texts of different lengths with a handful of static shapes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from v2l_jax.ops.batches import fill
from v2l_jax.progress import progress_bar

BUCKETS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def encode_in_buckets(
    token_ids: Sequence[Sequence[int]],
    encode: Callable[[np.ndarray, np.ndarray], jax.Array],
    batch_size: int,
    description: str,
) -> Float[np.ndarray, "text dim"]:
    """Encodes every token sequence, shortest first, padded to the next bucket length.

    The cost is close to that of the real tokens, and `encode` meets at most one shape per bucket
    and power-of-two batch.

    Args:
      token_ids: one non-empty sequence a text, at most `BUCKETS[-1]` long.
      encode: jitted `(ids[batch, length] int32, lengths[batch] int32) -> features[batch, dim]`; ids
        are padded with zeros after `lengths`, and must not be looked at there.
      batch_size: most texts a call.
      description: what the progress bar says.

    Returns:
      Features in the order of `token_ids`, float32.
    """
    lengths = np.array([len(ids) for ids in token_ids], dtype=np.int32)
    if not len(lengths):
        raise ValueError("no texts to encode")
    buckets = np.searchsorted(BUCKETS, lengths)
    batches = [
        (rows[start : start + batch_size], BUCKETS[bucket])
        for bucket in np.unique(buckets)
        for rows in [np.flatnonzero(buckets == bucket)]
        for start in range(0, len(rows), batch_size)
    ]
    features = None
    for rows, length in (
        progress_bar(batches, description, "batch") if len(batches) > 8 else batches
    ):
        size = min(batch_size, 1 << (len(rows) - 1).bit_length())
        ids = np.zeros((len(rows), length), dtype=np.int32)
        for i, row in enumerate(rows):
            ids[i, : lengths[row]] = token_ids[row]
        batch, count = fill((ids, lengths[rows]), size)
        encoded = np.asarray(encode(*batch), dtype=np.float32)[:count]
        if features is None:
            features = np.empty((len(token_ids), encoded.shape[1]), dtype=np.float32)
        features[rows] = encoded
    return features
