"""Other ways to k-means vocabularies: a batch at a time, nested, in chunks of the features, a class
at a time, and by what matters to a task.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from v2l_jax.codebook.kmeans import Centres, KMeans, Points, add_rows, fit, start
from v2l_jax.codebook.nearest_centres import assign, chunks
from v2l_jax.errors import DataError
from v2l_jax.ops.unit_vectors import unit_vectors

_REASSIGN_BELOW = 0.01  # of the largest centre's share, as scikit-learn has it
_REASSIGN_AFTER = 10  # points a centre


def fit_in_batches(
    points: Points,
    options: KMeans,
    batch_size: int = 16_384,
    epochs: int = 1,
    mesh: Mesh | None = None,
) -> Centres:
    """Mini-batch k-means (Sculley 2010) for points that are read a batch at a time.

    Each batch moves a centre to the mean of all points it has ever had. Every ten points a centre,
    centres with less than a hundredth of the largest one's points start anew at points of the
    batch. A last pass over all points counts them.

    Args:
      points: sliced a batch at a time, in order.
      options: clusters, start, spherical and seed count.
      batch_size: points of a batch; the first one gives the starts.
      epochs: passes over the points.
      mesh: devices that share the search.
    """
    rng = np.random.default_rng((options.seed, 0, 0))
    first = np.asarray(points[: max(batch_size, options.clusters)], np.float32)
    if len(first) < options.clusters:
        raise DataError(
            f"a batch of {len(first)} points is too small for {options.clusters} centres"
        )
    centres = start(first, options, rng).astype(np.float64)
    counts, since = np.zeros(len(centres)), 0
    nothing = np.zeros(centres.shape[1])
    for _ in range(epochs):
        for rows in chunks(len(points), batch_size):
            batch = np.asarray(points[rows], np.float32)
            nearest, _ = assign(batch, centres.astype(np.float32), nothing, mesh)
            new, sums = np.bincount(nearest, minlength=len(centres)), np.zeros(centres.shape)
            add_rows(sums, batch, nearest)
            counts += new
            rate = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
            centres += (sums - new[:, None] * centres) * rate[:, None]
            since += len(batch)
            if since >= _REASSIGN_AFTER * len(centres):
                since = 0
                _reassign(centres, counts, batch, rng)
            if options.spherical:
                centres = unit_vectors(centres, 1e-12)
    found = centres.astype(np.float32)
    nearest, objective = assign(points, found, nothing, mesh)
    return Centres(found, np.bincount(nearest, minlength=len(found)), (objective,))


def _reassign(
    centres: Float[np.ndarray, "clusters dim"],
    counts: Float[np.ndarray, " clusters"],
    batch: Float[np.ndarray, "points dim"],
    rng: np.random.Generator,
) -> None:
    """Centres with few points start anew at points of the batch, in place; their count becomes the
    smallest of the others.
    """
    small = np.flatnonzero(counts < _REASSIGN_BELOW * counts.max())[: len(batch) // 2]
    if not len(small):
        return
    centres[small] = batch[rng.choice(len(batch), len(small), replace=False)]
    counts[small] = np.delete(counts, small).min(initial=counts.max())


def fit_nested(
    points: Points, branches: Sequence[int], options: KMeans, mesh: Mesh | None = None
) -> list[Centres]:
    """Hierarchical k-means from the top: each cluster of a level is clustered again.

    Args:
      points: kept in memory a cluster at a time.
      branches: clusters of each node, a number a level; the number of words is their product.
      options: of every node but for the clusters.
      mesh: devices that share the search.

    Returns:
      A level each, coarsest first; centre `i` of a level has the centres `i * b … i * b + b - 1`
      below it.

    Raises:
      DataError: a cluster has fewer points than it shall be split into.
    """
    levels = [fit(points, dataclasses.replace(options, clusters=branches[0]), mesh)]
    zero = np.zeros(points.shape[1])
    for depth, count in enumerate(branches[1:], 1):
        above = levels[-1].centres
        owner = descend(points, [level.centres for level in levels], zero, mesh)
        below = []
        for node in range(len(above)):
            mine = np.flatnonzero(owner == node)
            if len(mine) < count:
                raise DataError(
                    f"cluster {node} of level {depth} has {len(mine)} points, too few for "
                    f"{count} more; ask for fewer words"
                )
            seed = options.seed + 7919 * depth + node
            one = dataclasses.replace(options, clusters=count, seed=seed)
            below.append(fit(np.asarray(points[mine]), one, mesh, description=f"level {depth + 1}"))
        levels.append(
            Centres(
                np.concatenate([one.centres for one in below]),
                np.concatenate([one.counts for one in below]),
                (sum(one.objectives[-1] for one in below),),
            )
        )
    return levels


def descend(
    points: Points,
    levels: Sequence[Float[np.ndarray, "_ dim"]],
    mean: Float[np.ndarray, " dim"],
    mesh: Mesh | None = None,
) -> Int[np.ndarray, " points"]:
    """The centre of the last level that each point comes to, choosing the nearest at every node."""
    at, _ = assign(points, levels[0], mean, mesh)
    for above, below in zip(levels, levels[1:]):
        branch, deeper = len(below) // len(above), np.empty_like(at)
        for node in np.unique(at):
            mine = np.flatnonzero(at == node)
            children = below[node * branch : (node + 1) * branch]
            deeper[mine] = node * branch + assign(points[mine], children, mean, mesh)[0]
        at = deeper
    return at


def fit_product(
    points: Points, parts: int, options: KMeans, mesh: Mesh | None = None
) -> list[Centres]:
    """Product k-means (Jégou et al. 2011): the features are cut into `parts` equal pieces, each
    with a vocabulary of its own; a patch has a word of each.

    Raises:
      DataError: the features cannot be cut so.
    """
    if points.shape[1] % parts:
        raise DataError(f"{points.shape[1]} features cannot be cut into {parts} equal parts")
    width = points.shape[1] // parts
    return [
        fit(
            np.ascontiguousarray(points[:, p * width : (p + 1) * width]),
            dataclasses.replace(options, seed=options.seed + p),
            mesh,
            description=f"k-means, part {p + 1} of {parts}",
        )
        for p in range(parts)
    ]


def fit_per_class(
    points: Points, labels: Int[np.ndarray, " points"], options: KMeans, mesh: Mesh | None = None
) -> Centres:
    """k-means of each class's points apart, as VQGAN-LC makes its codebook (Zhu et al. 2024, arXiv
    2406.11837); `options.clusters` is shared out evenly, the first classes getting one more.

    Args:
      points: features.
      labels: the class of each; those below 0 are left out.
      options: how.
      mesh: devices that share the search.
    """
    classes = np.unique(labels[labels >= 0])
    if len(classes) > options.clusters or not len(classes):
        raise DataError(f"{options.clusters} words cannot be shared out to {len(classes)} classes")
    sizes = [len(part) for part in np.array_split(np.arange(options.clusters), len(classes))]
    found = [
        fit(
            np.asarray(points[np.flatnonzero(labels == label)]),
            dataclasses.replace(options, clusters=size, seed=options.seed + int(label)),
            mesh,
            description=f"k-means, class {label}",
        )
        for label, size in zip(classes, sizes)
    ]
    return Centres(
        np.concatenate([one.centres for one in found]),
        np.concatenate([one.counts for one in found]),
        (sum(one.objectives[-1] for one in found),),
    )


def class_weights(points: Points, labels: Int[np.ndarray, " points"]) -> Float[np.ndarray, " dim"]:
    """How much each feature tells of the class: the root of its variance between classes over that
    within them, so that distances of weighted features follow the task. Features that do not vary
    weigh nothing.
    """
    kept = labels >= 0
    x, y = np.asarray(points, np.float64)[kept], labels[kept]
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    sums = np.zeros((len(classes), x.shape[1]))
    add_rows(sums, x, index)
    means = sums / counts[:, None]
    between = counts @ (means - x.mean(0)) ** 2 / len(x)
    within = np.mean((x - means[index]) ** 2, axis=0)
    return np.sqrt(between / np.where(within > 0, within, np.inf)).astype(np.float32)


def explained_variance(objective: float, points: Points) -> float:
    """The share of the points' variance that their centres account for."""
    count, mean = len(points), np.zeros(points.shape[1])
    for rows in chunks(count):
        mean += np.asarray(points[rows], np.float64).sum(0) / count
    total = 0.0
    for rows in chunks(count):
        total += float(np.sum((np.asarray(points[rows], np.float64) - mean) ** 2))
    return 1.0 - objective / total if total > 0 else 1.0


def stability(
    one: Int[np.ndarray, " points"], other: Int[np.ndarray, " points"], clusters: int
) -> float:
    """How alike two vocabularies divide the same points: the share of points in matched clusters,
    under the best one-to-one matching (Hungarian method).
    """
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((clusters, clusters))
    np.add.at(table, (one, other), 1.0)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(one))
