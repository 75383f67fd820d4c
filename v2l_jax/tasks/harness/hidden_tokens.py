"""Which tokens of an image are hidden, and baselines that fill them in without a language model."""

import numpy as np
from jaxtyping import Bool, Float, Int


def draw_masks(
    images: int, positions: int, share: float, seed: tuple[int, ...]
) -> Bool[np.ndarray, "images positions"]:
    """Which words are hidden: round(share · positions) of each image, at least one, a function of
    the seed and the image's number alone.
    """
    hidden = max(1, round(share * positions))
    masks = np.zeros((images, positions), bool)
    for image, mask in enumerate(masks):
        mask[np.random.default_rng((*seed, image)).permutation(positions)[:hidden]] = True
    return masks


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
