"""FID, the Fréchet distance between Gaussians fitted to InceptionV3 features of two sets of images
(Heusel et al. 2017).
"""

import dataclasses

import numpy as np
from absl import logging
from jaxtyping import Float

from v2l_jax.errors import DataError
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.progress import progress_bar

_FEATURES = 2048  # Of InceptionV3's pool3.
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter of feature vectors, which can be merged in any order.

    Attributes:
      count: vectors seen.
      mean: their mean, float64.
      scatter: Σ (x - mean)(x - mean)ᵀ, float64; covariance times count - 1.
    """

    count: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "batch features"]) -> "FeatureStatistics":
        """Statistics of one batch.

        Raises:
          DataError: a feature is not finite.
        """
        _require_finite(features)
        if not len(features):
            return cls(0, np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2))
        mean = np.mean(features, axis=0, dtype=np.float64)
        centred = features.astype(np.float64) - mean
        return cls(len(features), mean, centred.T @ centred)

    def update(self, features: Float[np.ndarray, "batch features"]) -> "FeatureStatistics":
        """Statistics with a batch more."""
        return self.merge(FeatureStatistics.of(features))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets together (Chan et al. 1983, equation 2.1)."""
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + shift * (other.count / count), self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> Float[np.ndarray, "features features"]:
        """Unbiased sample covariance.

        Raises:
          DataError: of fewer than two vectors.
        """
        if self.count < 2:
            raise DataError(f"the Fréchet distance needs at least 2 images a set, got {self.count}")
        return self.scatter / (self.count - 1)


def _require_finite(features: Float[np.ndarray, "batch features"]) -> None:
    broken = int((~np.isfinite(features)).any(1).sum())
    if broken:
        raise DataError(
            f"the Inception features of {broken} of {len(features)} images are not finite (NaN or "
            "infinity), so there is no FID; look at these images, and at the weights' file"
        )


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½) (Dowson & Landau 1982).

    The last trace is taken as the sum of the singular values of Σ_a^½ Σ_b^½, which needs no square
    root of a product that is not symmetric and stays exact for singular covariances.

    Raises:
      DataError: a set has fewer than two vectors.
    """
    shift = a.mean - b.mean
    overlap = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def feature_distance(
    a: Float[np.ndarray, "samples_a features"], b: Float[np.ndarray, "samples_b features"]
) -> float:
    """`frechet_distance` of two sets of vectors; with fewer vectors than features, much faster.

    Raises:
      DataError: a set has fewer than two vectors, or a vector is not finite.
    """
    if min(len(a), len(b)) < 2 or max(len(a), len(b)) >= a.shape[1]:
        return frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    _require_finite(a)
    _require_finite(b)
    means = [np.mean(x, axis=0, dtype=np.float64) for x in (a, b)]
    # Σ = XᵀX of scaled, centred rows, so the singular values of Σ_a^½ Σ_b^½ are those of X_a X_bᵀ.
    x, y = ((x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((a, b), means))
    shift = means[0] - means[1]
    return float(
        np.dot(shift, shift)
        + np.sum(x**2)
        + np.sum(y**2)
        - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    )


def frechet_inception_distance(
    real: Float[np.ndarray, "real features"],
    generated: Float[np.ndarray, "generated features"],
    *,
    paired: bool,
    resamples: int = 100,
    seed: int = 0,
    **measured_on: Scalar,
) -> Result:
    """FID as a row of results.json: metric "fid", count = generated images.

    Few images inflate FID; below 2,048, the number of features, a warning says so.

    Args:
      real: pool3 features of the reference images.
      generated: of the images that are judged.
      paired: image i of both sets belongs together (a photo and its reconstruction), so both are
        resampled alike.
      resamples: bootstrap resamples behind the interval, FID ± 1.96 standard deviations; a resample
        repeats images, which adds to the bias, so its quantiles would not surround the value. Below
        2, no interval.
      seed: of the bootstrap.
      **measured_on: see `Result`.

    Raises:
      DataError: a set has fewer than two images, or paired sets differ in size.
    """
    if paired and len(real) != len(generated):
        raise DataError(
            f"{len(real)} real and {len(generated)} generated images cannot be pairs; pass "
            "paired=False"
        )
    fewest = min(len(real), len(generated))
    if fewest < _FEATURES:
        logging.warning(
            "FID of %d images is biased upwards: compare it with FIDs of as many images, or use %d",
            fewest,
            _FEATURES,
        )
    value = feature_distance(real, generated)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in progress_bar(range(resamples if resamples > 1 else 0), "FID interval", "resample"):
        rows = rng.integers(len(generated), size=len(generated))
        real_rows = rows if paired else rng.integers(len(real), size=len(real))
        draws.append(feature_distance(real[real_rows], generated[rows]))
    half = _Z95 * float(np.std(draws, ddof=1)) if draws else 0.0
    return Result(
        "fid", value, len(generated), (value - half, value + half) if draws else None, measured_on
    )
