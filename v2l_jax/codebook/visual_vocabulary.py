"""A vocabulary of visual words: centres of patch features, and the file that holds them."""

import dataclasses
import json
import os
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.nearest_centres import assign
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.ops.unit_vectors import unit_vectors

_FORMAT = "v2l_jax visual vocabulary 1"


@dataclasses.dataclass(frozen=True)
class VisualVocabulary:
    """Words of patch features.

    Attributes:
      centres: float32, a row a word, of prepared features.
      mean: is subtracted from features.
      projection: [dim, kept], what they are multiplied with then: a whitening, a choice of
        principal components, or weights of a task.
      unit: whether prepared features are brought to length one (spherical k-means).
      made_with: what the features are of, by name: tower, layer and so on.
      health: usage, perplexity and explained variance on the training images.
    """

    centres: Float[np.ndarray, "words kept"]
    mean: Float[np.ndarray, " dim"]
    projection: Float[np.ndarray, "dim kept"]
    unit: bool
    made_with: dict[str, Any]
    health: dict[str, float]

    def __len__(self) -> int:
        return len(self.centres)

    def prepare(self, features: Float[np.ndarray, "patches dim"]) -> Float[np.ndarray, "patches k"]:
        """Features as the centres lie among them."""
        return prepared(features, self.mean, self.projection, self.unit)

    def words(
        self, features: Float[np.ndarray, "patches dim"], mesh: Mesh | None = None
    ) -> Int[np.ndarray, " patches"]:
        """The nearest word of each patch."""
        return self.nearest(self.prepare(features), mesh)

    def nearest(
        self, prepared: Float[np.ndarray, "patches kept"], mesh: Mesh | None = None
    ) -> Int[np.ndarray, " patches"]:
        """The nearest word of each patch, by features as `prepare` gives them."""
        return assign(prepared, self.centres, np.zeros(self.centres.shape[1]), mesh)[0]

    def check_made_with(self, wanted: dict[str, Any], where: object) -> None:
        """Raises ConfigError where the words are of another tower, layer or size than asked for."""
        differing = sorted(k for k, v in wanted.items() if self.made_with.get(k) != v)
        if differing:
            told = "; ".join(
                f"{k} is {self.made_with.get(k)!r}, not {wanted[k]!r}" for k in differing
            )
            raise ConfigError(
                f"the visual words in {where} were made otherwise ({told}); name another "
                "--workdir, or delete that file and run the vocabulary job again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file atomically."""
        tensors = {
            "centres": np.ascontiguousarray(self.centres, np.float32),
            "mean": np.ascontiguousarray(self.mean, np.float32),
            "projection": np.ascontiguousarray(self.projection, np.float32),
        }
        metadata = {
            "format": _FORMAT,
            "unit": json.dumps(self.unit),
            "made_with": json.dumps(self.made_with),
            "health": json.dumps(self.health),
        }
        with atomic_write(path) as draft:
            safetensors.numpy.save_file(tensors, draft, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "VisualVocabulary":
        """Reads what `save` wrote.

        Raises:
          CheckpointError: the file is missing, truncated, or holds something else.
        """
        try:
            with safetensors.safe_open(os.fspath(path), "numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise CheckpointError(f"{path} is not a visual vocabulary of this version")
                arrays = [file.get_tensor(name) for name in ("centres", "mean", "projection")]
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"cannot read the visual words {path}: {error}; run the vocabulary job first: "
                "--config.jobs=vocabulary"
            ) from error
        try:
            rest = [json.loads(about[key]) for key in ("unit", "made_with", "health")]
            centres, mean, projection = arrays
            fits = projection.shape == (len(mean), centres.shape[1]) and mean.ndim == 1
            if not fits or not all(isinstance(part, dict) for part in rest[1:]):
                raise ValueError(f"{centres.shape}, {mean.shape}, {projection.shape}")
            return cls(*arrays, *rest)
        except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise CheckpointError(
                f"the visual words {path} are damaged ({error!r:.120}); run the vocabulary job "
                "again: --config.jobs=vocabulary"
            ) from error


def prepared(
    features: Float[np.ndarray, "patches dim"],
    mean: Float[np.ndarray, " dim"],
    projection: Float[np.ndarray, "dim kept"],
    unit: bool,
) -> Float[np.ndarray, "patches kept"]:
    """Centred, projected and, if so asked, of length one."""
    x = (np.asarray(features, np.float32) - mean) @ projection
    if unit:
        x = unit_vectors(x, 1e-12)
    return x.astype(np.float32)


class PreparedPoints:
    """Features as `prepared` gives them, made when rows are sliced out: for a file mapped to memory
    that does not fit in it.

    Attributes:
      shape: points and kept features.
    """

    def __init__(
        self,
        features: Any,
        mean: Float[np.ndarray, " dim"],
        projection: Float[np.ndarray, "dim kept"],
        unit: bool,
    ):
        self._features, self._how = features, (mean, projection, unit)
        self.shape = (len(features), projection.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "rows kept"]:
        return prepared(self._features[rows], *self._how)


def preparation(
    features: Float[np.ndarray, "patches dim"], components: int, whiten: bool
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim kept"]]:
    """The mean of features, and the matrix of their first principal components.

    Args:
      features: of the training images.
      components: how many are kept; 0 keeps the features as they are, or all where they are
        whitened.
      whiten: whether each component is brought to variance one.
    """
    x = np.asarray(features, np.float64)
    mean = x.mean(0)
    if not components and not whiten:
        return mean.astype(np.float32), np.eye(x.shape[1], dtype=np.float32)
    variance, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    order = np.argsort(-variance)[: components or None]
    matrix = axes[:, order]
    if whiten:
        matrix = matrix / np.sqrt(np.maximum(variance[order], 1e-12 * variance.max()))
    return mean.astype(np.float32), matrix.astype(np.float32)


def inliers(
    features: Float[np.ndarray, "patches dim"], deviations: int | float
) -> Bool[np.ndarray, " patches"]:
    """Which patches are not outliers: those of a norm up to the median and so many median absolute
    deviations (Darcet et al. 2023 show what the others are).
    """
    norms = np.linalg.norm(np.asarray(features, np.float32), axis=1)
    median = np.median(norms)
    return norms <= median + deviations * np.median(np.abs(norms - median))
