"""k-means on the same points, from the same start, for as many rounds: ours, faiss and
scikit-learn, with the bound, all measured in one run.

python -m benchmarks.kmeans [--points=131072 --dim=384 --clusters=512 --iterations=10]

`pip install faiss-cpu scikit-learn` installs the peers. Both run Lloyd's iteration alone, without a
tolerance that ends it. The bound is the time of the products of all points with all centres at the
machine's measured peak in float32. `--costs` prints instead what 10⁶ to 10⁹ points would take on
accelerators, computed from their published peaks.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks import machine
from v2l_jax.codebook.kmeans import KMeans, fit, start

# TPU v5e, bfloat16: cloud.google.com/tpu/docs/v5e. H100 SXM, dense TF32: NVIDIA's data sheet.
_PEAKS = {"TPU v5e (bfloat16, six passes)": 197e12 / 6, "H100 (tf32)": 495e12}
_UTILISATION = 0.4
_ROUNDS = 25


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: who, seconds, and the sum of squared distances it ends at."""

    engine: str
    seconds: float
    objective: float


def assignment_flops(points: float, clusters: int, dim: int) -> float:
    """Multiply-adds × 2 of one round's products of all points with all centres."""
    return 2.0 * points * clusters * dim


def make_points(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Points about 2,000 spots, spread so that clusters overlap as patch features do."""
    rng = np.random.default_rng(seed)
    spots = rng.normal(size=(2_000, dim)).astype(np.float32)
    noise = rng.normal(size=(count, dim)).astype(np.float32)
    return spots[rng.integers(len(spots), size=count)] + 1.5 * noise


def engines(points: np.ndarray, options: KMeans) -> dict[str, Callable[[], float]]:
    """Each implementation as a call that returns the objective."""
    first = start(points, options, np.random.default_rng((options.seed, 0, 0)))

    def faiss_run() -> float:
        import faiss  # pyright: ignore[reportMissingImports]

        peer = faiss.Kmeans(
            points.shape[1],
            options.clusters,
            niter=options.iterations,
            max_points_per_centroid=len(points),
            min_points_per_centroid=1,
        )
        peer.train(points, init_centroids=first)
        return _objective(points, peer.centroids)

    def sklearn_run() -> float:
        from sklearn.cluster import KMeans as Peer  # pyright: ignore[reportMissingImports]

        peer = Peer(
            options.clusters,
            init=first,
            n_init=1,
            max_iter=options.iterations,
            tol=0,
            algorithm="lloyd",
        )
        return _objective(points, peer.fit(points).cluster_centers_)

    return {
        "ours": lambda: fit(points, options).objectives[-1],
        "faiss": faiss_run,
        "scikit-learn": sklearn_run,
    }


def _objective(points: np.ndarray, centres: np.ndarray) -> float:
    """In float64; the peers' own sums are float32."""
    total = 0.0
    lengths = np.sum(centres.astype(np.float64) ** 2, axis=1)
    for first in range(0, len(points), 8192):
        block = points[first : first + 8192].astype(np.float64)
        distances = lengths - 2.0 * block @ centres.T.astype(np.float64)
        total += float(np.sum(distances.min(1)) + np.sum(block**2))
    return total


def measure(points: np.ndarray, options: KMeans, repeats: int) -> list[Row]:
    """The best of several runs of each, one after the other in turn so that all meet the same
    load.
    """
    calls = engines(points, options)
    best = {name: np.inf for name in calls}
    objective = {}
    for turn in range(repeats + 1):  # the first one compiles and is not counted
        for name, call in calls.items():
            began = time.perf_counter()
            objective[name] = call()
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return [Row(name, best[name], objective[name]) for name in calls]


def print_costs() -> None:
    """What one run of 25 rounds takes on accelerators."""
    print(f"{_ROUNDS} rounds × 768 features at {_UTILISATION:.0%} of the peak, computed:")
    for count in (1e6, 1e7, 1e8, 1e9):
        for clusters in (1_024, 8_192, 65_536):
            work = _ROUNDS * assignment_flops(count, clusters, 768)
            times = "; ".join(
                f"{name} {work / peak / _UTILISATION:,.1f} s" for name, peak in _PEAKS.items()
            )
            print(f"  {count:.0e} points, {clusters:>6,} centres: {work:.1e} operations; {times}")


def define_flags() -> None:
    """The command line's; not at import, where two programs' flags of one name would clash."""
    flags.DEFINE_integer("points", 131_072, "Points.")
    flags.DEFINE_integer("dim", 384, "Their features.")
    flags.DEFINE_integer("clusters", 512, "Centres.")
    flags.DEFINE_integer("iterations", 10, "Rounds.")
    flags.DEFINE_integer("repeats", 3, "Timed repetitions of each; the best counts.")
    flags.DEFINE_bool("costs", False, "Print the computed table of accelerators.")


def main(_: list[str]) -> None:
    """Measures and prints, or prints the computed costs."""
    given = flags.FLAGS
    if given.costs:
        print_costs()
        return
    options = KMeans(given.clusters, given.iterations, most_points=0)
    points = make_points(given.points, given.dim)
    rows = measure(points, options, given.repeats)
    work = (options.iterations + 1) * assignment_flops(len(points), options.clusters, given.dim)
    ours = rows[0]
    print(f"{len(points):,} × {given.dim} points, {options.clusters} centres, "
          f"{options.iterations} rounds")  # fmt: skip
    for row in rows:
        print(
            f"  {row.engine:<12} {row.seconds:8.2f} s  ours is {row.seconds / ours.seconds:5.2f}× "
            f"as fast; objective {row.objective / ours.objective - 1:+.4%} of ours"
        )
    print(f"  bound        {work / machine.matmul_peak('float32'):8.2f} s")


if __name__ == "__main__":
    define_flags()
    app.run(main)
