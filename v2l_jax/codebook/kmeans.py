"""k-means vocabularies of patch features: Lloyd's iteration as faiss runs it (Douze et al. 2024),
with k-means++ starts (Arthur & Vassilvitskii 2007) and spherical centres (Dhillon & Modha 2001).

Devices find each point's nearest centre; the host adds up the points of each centre in float64,
so that sums are exact however many points there are (float32 sums stop growing at 2²⁴), and the
result does not depend on how many devices share the search.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.nearest_centres import CentredPoints, chunks
from v2l_jax.errors import DataError, V2LError
from v2l_jax.formats.numpy_files import read_npz
from v2l_jax.parallel.processes import is_primary
from v2l_jax.progress import progress_bar

Points = Any
"""An array [points, dim] of floats, or what is sliced like one, such as a file mapped to memory."""

_SPLIT = 1 / 1024
_FEW = 39


@dataclasses.dataclass(frozen=True)
class KMeans:
    """How centres are found; the defaults are faiss'.

    Attributes:
      clusters: centres.
      iterations: rounds of assignment and mean.
      start: "random" takes different points; "k-means++" draws each next one with probability
        proportional to its squared distance to those already drawn.
      restarts: runs from other starts, of which the one with the lowest objective is kept.
      spherical: bring every centre to length one after each round; points should be unit vectors.
      most_points: points a centre that are used, drawn at random; 0 uses all.
      seed: of starts, draws and splits.
    """

    clusters: int
    iterations: int = 25
    start: str = "random"
    restarts: int = 1
    spherical: bool = False
    most_points: int = 256
    seed: int = 1234


@dataclasses.dataclass(frozen=True, eq=False)
class Centres:
    """What k-means found.

    Attributes:
      centres: float32.
      counts: points of each centre at the last assignment; of the sample where one was drawn.
      objectives: the sum of squared distances at each assignment, of the kept run.
    """

    centres: Float[np.ndarray, "clusters dim"]
    counts: Int[np.ndarray, " clusters"]
    objectives: tuple[float, ...]


def fit(
    points: Points,
    options: KMeans,
    mesh: Mesh | None = None,
    state: pathlib.Path | None = None,
    description: str = "k-means",
) -> Centres:
    """Finds centres by Lloyd's iteration.

    Args:
      points: of finite numbers, at least as many as centres; read a chunk at a time.
      options: how.
      mesh: devices that share the search; None is one.
      state: a file that holds the run after each round; a run that was interrupted goes on from it
        and ends like one that was not. None keeps nothing.
      description: for the progress bar.

    Raises:
      DataError: fewer points than centres, or a point is not finite.
    """
    if len(points) < options.clusters:
        raise DataError(
            f"{len(points)} points are too few for {options.clusters} centres; ask for fewer words"
        )
    if len(points) < _FEW * options.clusters:
        logging.warning(
            "%s: %d points for %d centres are few; at least %d a centre are better",
            description, len(points), options.clusters, _FEW,
        )  # fmt: skip
    points = sample(points, options.most_points * options.clusters, options.seed)
    mean = _checked_mean(points)
    made_for = f"{options} of {points.shape} points with mean {mean.tolist()}"
    run = _Run(made_for)
    if state is not None and state.exists():
        there = _Run.read(state)
        run = there if there.made_for == made_for else run
    centred = CentredPoints(points, mean, mesh)
    rounds = range(run.rounds, options.restarts * (options.iterations + 1))
    for number in progress_bar(rounds, description, "round"):
        restart, iteration = divmod(number, options.iterations + 1)
        rng = np.random.default_rng((options.seed, restart, iteration))
        if iteration == 0:
            centres = start(points, options, rng)
            run = run.begun(centres)
        run = _assigned(run, centred, len(points))
        if iteration < options.iterations:
            run = _moved(run, options, mean, rng)
        else:
            run = run.ended()
        run = dataclasses.replace(run, rounds=number + 1)
        if state is not None and is_primary():
            run.write(state)
    return Centres(run.best, run.best_counts, tuple(run.best_objectives))


def sample(points: Points, most: int, seed: int) -> Points:
    """A uniform sample without repetition, in the order of the points; all where they are no more
    than `most`, or `most` is 0.
    """
    if not most or len(points) <= most:
        return points
    rng = np.random.default_rng((seed, len(points)))
    rows = np.sort(rng.choice(len(points), most, replace=False))
    return np.asarray(points[rows])


def start(
    points: Points, options: KMeans, rng: np.random.Generator
) -> Float[np.ndarray, "clusters dim"]:
    """The centres before the first round; float32."""
    if options.start == "random":
        rows = np.sort(rng.choice(len(points), options.clusters, replace=False))
        chosen = np.asarray(points[rows], np.float32)
    else:
        chosen = _plus_plus(np.asarray(points, np.float32), options.clusters, rng)
    return _unit(chosen) if options.spherical else chosen


def _plus_plus(
    points: Float[np.ndarray, "points dim"], clusters: int, rng: np.random.Generator
) -> Float[np.ndarray, "clusters dim"]:
    centred = points - points.mean(0)
    lengths = np.einsum("nd,nd->n", centred, centred)
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    for _ in range(clusters - 1):
        last = chosen[-1]
        distance = lengths + lengths[last] - 2.0 * (centred @ centred[last])
        nearest = np.minimum(nearest, np.maximum(distance, 0.0))
        nearest[last] = 0.0
        total = np.cumsum(nearest, dtype=np.float64)
        drawn = np.searchsorted(total, rng.random() * total[-1], side="right")
        if drawn == len(points):  # fewer different points than centres
            drawn = rng.integers(len(points))
        chosen.append(int(drawn))
    return points[chosen]


def split_empty(
    centres: Float[np.ndarray, "clusters dim"],
    counts: Float[np.ndarray, " clusters"],
    rng: np.random.Generator,
) -> int:
    """Gives each centre without points half of another one, in place (faiss' rule).

    The donor is found by walking over all centres again and again, each taken with probability
    (count - 1) / (points - clusters); the two copies move apart by 1/1024 of themselves.

    Args:
      centres: changed where a centre is empty, and at its donor.
      counts: points of each centre; halved at donors.
      rng: draws donors.

    Returns:
      How many centres were empty.
    """
    total, empty = counts.sum(), np.flatnonzero(counts == 0)
    for at in empty:
        donor = 0
        while rng.random() >= (counts[donor] - 1.0) / max(total - len(counts), 1.0):
            donor = (donor + 1) % len(counts)
        signs = np.where(np.arange(centres.shape[1]) % 2 == 0, 1.0, -1.0) * _SPLIT
        centres[at] = centres[donor] * (1 + signs)
        centres[donor] = centres[donor] * (1 - signs)
        counts[at] = counts[donor] / 2
        counts[donor] -= counts[at]
    return len(empty)


def add_rows(
    sums: Float[np.ndarray, "clusters dim"],
    rows: Float[np.ndarray, "rows dim"],
    centres: Int[np.ndarray, " rows"],
    sign: float = 1.0,
) -> None:
    """Adds each row, times `sign`, to the sum of its centre, in float64."""
    ones = np.full(len(rows), sign)
    where = (ones, (centres, np.arange(len(rows))))
    matrix = scipy.sparse.csr_matrix(where, shape=(len(sums), len(rows)))
    sums += matrix @ rows.astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The state between two rounds.

    Attributes:
      made_for: options and points in short; another run's state is not gone on with.
      rounds: finished ones, over all restarts.
      centres, assigned, sums, counts: of the restart under way; `sums` are about the points' mean.
      objectives: of the restart under way.
      best, best_counts, best_objectives: of the best restart that has ended.
    """

    made_for: str = ""
    rounds: int = 0
    centres: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    assigned: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    sums: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    objectives: Sequence[float] = ()
    best: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    best_counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    best_objectives: Sequence[float] = ()

    def begun(self, centres: np.ndarray) -> "_Run":
        """A new restart."""
        return dataclasses.replace(
            self,
            centres=centres,
            assigned=np.zeros(0, np.int32),
            sums=np.zeros(centres.shape),
            counts=np.zeros(len(centres), np.int64),
            objectives=(),
        )

    def ended(self) -> "_Run":
        """The restart's last assignment is done; it is kept if it is the best."""
        if len(self.best_objectives) and self.best_objectives[-1] <= self.objectives[-1]:
            return self
        return dataclasses.replace(
            self, best=self.centres, best_counts=self.counts, best_objectives=self.objectives
        )

    def write(self, path: pathlib.Path) -> None:
        """Writes a file that `read` reads, whole or not at all."""
        with atomic_write(path) as draft, draft.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def read(cls, path: pathlib.Path) -> "_Run":
        """What `write` wrote."""
        remedy = "delete it, and k-means begins anew"
        found: dict[str, Any] = read_npz(path, remedy=remedy)
        try:
            found |= {"rounds": int(found["rounds"]), "made_for": str(found["made_for"])}
            found |= {n: tuple(map(float, found[n])) for n in ("objectives", "best_objectives")}
            return cls(**found)
        except (KeyError, TypeError, ValueError) as error:
            raise V2LError(f"{path} is damaged ({error!r}); {remedy}") from error


def _assigned(run: _Run, points: CentredPoints, count: int) -> _Run:
    """The run with each point at its nearest centre, sums and counts brought up to date by the
    points that changed.
    """
    nearest, objective = points.nearest(run.centres)
    sums, first = run.sums.copy(), not len(run.assigned)
    for rows in chunks(count):
        old = None if first else run.assigned[rows]
        new = nearest[rows]
        moved = np.arange(len(new)) if old is None else np.flatnonzero(new != old)
        if len(moved):
            block = points.chunk(rows)[moved]
            add_rows(sums, block, new[moved])
            if old is not None:
                add_rows(sums, block, old[moved], -1.0)
    counts = np.bincount(nearest, minlength=len(sums))
    objectives = (*run.objectives, objective)
    return dataclasses.replace(
        run, assigned=nearest, sums=sums, counts=counts, objectives=objectives
    )


def _moved(run: _Run, options: KMeans, mean: np.ndarray, rng: np.random.Generator) -> _Run:
    """The run with its centres at the means of their points."""
    means = run.sums / np.maximum(run.counts, 1)[:, None] + mean
    counts = run.counts.astype(np.float64)
    empty = split_empty(means, counts, rng)
    if empty:
        logging.info("k-means: %d centres without points were split off others", empty)
    centres = means.astype(np.float32)
    return dataclasses.replace(run, centres=_unit(centres) if options.spherical else centres)


def _checked_mean(points: Points) -> Float[np.ndarray, " dim"]:
    """The mean in float64."""
    total = np.zeros(points.shape[1])
    for rows in chunks(len(points)):
        total += np.asarray(points[rows], np.float64).sum(0)
    if not np.isfinite(total).all():
        raise DataError("some features are not finite numbers; k-means cannot use them")
    return total / len(points)


def _unit(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1).astype(np.float32)
