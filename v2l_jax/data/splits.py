"""Chooses the held-out images by content, so that renaming or re-ordering files moves none of them
into training.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def split_held_out(
    labels: Sequence[int | np.integer] | Int[np.ndarray, "records"],
    fraction: float,
    seed: int,
    keys: Sequence[str] | None = None,
) -> tuple[Int[np.ndarray, "kept"], Int[np.ndarray, "held_out"]]:
    """Splits every class by the same fraction, deterministically.

    A record's place depends only on the seed and its key: with content hashes as keys, the split
    does not change with file names or scan order.

    Args:
      labels: class of each record.
      fraction: held-out share of each class in [0, 1], rounded to whole records; a class of two or
        more keeps at least one record on either side unless the fraction is exactly 0 or 1.
      seed: another seed holds out other records.
      keys: what identifies each record, for example `ImageFolder.content_hashes`; its index by
        default.

    Returns:
      Sorted record indices: (kept, held out).
    """
    labels = np.asarray(labels, dtype=np.int64)
    keys = [str(i) for i in range(len(labels))] if keys is None else list(keys)
    ranks = np.array(
        [hashlib.sha256(f"{seed}:{key}".encode()).hexdigest() for key in keys], dtype=object
    )
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if 0 < fraction < 1 and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out.extend(sorted(members, key=lambda i: ranks[i])[:count])
    held_out = np.array(sorted(held_out), dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
