"""Visual words mixed with continuous features, by the networks of `llm.word_mixtures`: a row and
what the centre leaves of the patch; continuous vectors before the words; all words' rows by how
near they are; several words at one position.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from v2l_jax.codebook.kmeans import Points
from v2l_jax.codebook.kmeans_variants import fit_product
from v2l_jax.codebook.nearest_centres import assign
from v2l_jax.errors import ConfigError
from v2l_jax.llm import new_rows
from v2l_jax.llm.connector import init_connector
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import POSITIVE, number, one_of, option
from v2l_jax.report.data import Gallery
from v2l_jax.representations import visual_words
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.connected import Connected, own_rows
from v2l_jax.representations.visual_words import Clustered, kmeans_of
from v2l_jax.run.patches import pooled
from v2l_jax.run.run import Run

FORMS = ("residual", "prefix", "probabilistic", "product")


@dataclasses.dataclass(frozen=True)
class Options(Connected, visual_words.Options):
    """Options of visual words; their rows train in the network, not in the embedding. An image has
    a begin mark, a position a patch, row by row, and an end mark.
    """

    form: str = option(
        "residual",
        "'residual': a word's row and, weighed by a learned number from 0 on, what its centre "
        "leaves of the patch; 'prefix': vectors before the words; 'probabilistic': the mean of all "
        "rows, weighed by a head that begins at the centres; 'product': the sum of a row of each "
        "chunk of the features",
        one_of(*FORMS),
    )
    side: int = option(1, "prefix: side of the grid of vectors before the words", POSITIVE)
    temperature: float = option(
        0.3,
        "probabilistic: of the softmax, in standard deviations of a patch's logits",
        number(1e-3),
    )
    chunks: int = option(2, "product: equal pieces of the features with words each", POSITIVE)

    summary_names: ClassVar[tuple[str, ...]] = ()

    def fingerprint(self) -> dict[str, Scalar]:
        """The form before the options of the words."""
        return {"form": self.form} | super().fingerprint()

    def made_with(self, run: Run) -> dict[str, Any]:
        """What the words depend on."""
        chunks = {"chunks": self.chunks} if self.form == "product" else {}
        return super().made_with(run) | chunks

    def clustered(self, run: Run, points: Points, labels: np.ndarray) -> Clustered:
        """k-means; for product words of each chunk: row c of the centres has the c-th centre of
        every chunk.

        Raises:
          ConfigError: product words of each class apart are asked for.
        """
        if self.form != "product":
            return super().clustered(run, points, labels)
        if self.supervision == "class" or self.passes:
            raise ConfigError(
                "product words are made neither of each class apart nor in batches; set "
                "config.representation.mixed_words.supervision to 'none' or 'weights', passes to 0"
            )
        found = fit_product(points, self.chunks, kmeans_of(self, run), run.mesh)
        counts = np.concatenate([part.counts for part in found])
        objective = float(sum(part.objectives[-1] for part in found))
        return Clustered(np.concatenate([part.centres for part in found], 1), counts, objective)

    def new_rows(self, run: Run) -> None:
        """None: the network has them."""
        del run

    def galleries(self, run: Run) -> list[Gallery]:
        """None."""
        del run
        return []

    def places(self, run: Run, images: ImageSet) -> None:
        """None: no words are written."""
        del run, images

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images slots dim"]:
        """What the network of this form reads, see `llm.word_mixtures`.

        Raises:
          ConfigError: words are not asked for a patch each, in order.
        """
        if self.sequence != "order" or self.row_ends:
            raise ConfigError(
                "mixed words are one a patch, in order: set "
                "config.representation.mixed_words.sequence='order' and row_ends=False"
            )
        patches, vocabulary = self.flat_patches(run, images), self.vocabulary(run)
        x = vocabulary.prepare(patches.reshape(-1, patches.shape[-1]))
        grid = (*patches.shape[:2], -1)
        if self.form == "product":
            return self._between_marks(self._codes(x, vocabulary.centres).reshape(grid))
        if self.form == "probabilistic":
            return self._between_marks(_coded(np.full(len(x), -1), x).reshape(grid))
        words = vocabulary.nearest(x)
        if self.form == "residual":
            return self._between_marks(_coded(words, x - vocabulary.centres[words]).reshape(grid))
        before = self._means(run, images)
        nothing = np.zeros((len(words), before.shape[-1]), np.float32)
        before = _coded(np.full(before[..., 0].size, -1), before.reshape(-1, before.shape[-1]))
        after = self._between_marks(_coded(words, nothing).reshape(grid))
        return np.concatenate([before.reshape(len(patches), -1, after.shape[-1]), after], axis=1)

    def init_adapter(self, key: Any, run: Run) -> dict[str, Any]:
        """A fresh network, whose rows start as `rows_start` says."""
        if self.form == "product":
            return {"product": {"rows": self._tables(run)}}
        rows = visual_words.Options.new_rows(self, run)[:-1]  # no mark ends rows of patches
        params: dict[str, Any] = {"rows": jnp.asarray(rows)}
        own, mean, spread = own_rows(run)
        centres = self.vocabulary(run).centres
        if self.form == "residual":
            params["kernel"] = jax.random.normal(key, (centres.shape[1], own.shape[1])) * spread
            params["alpha"] = jnp.zeros(())
        elif self.form == "prefix":
            params |= init_connector(key, self.patch_dim(run), own.shape[1], 1, mean, spread)
        else:
            params["kernel"] = jnp.asarray(centres.T)
            params["temperature"] = jnp.asarray(self.temperature, jnp.float32)
        return {self.form: params}

    def _between_marks(self, inner: np.ndarray) -> Float[np.ndarray, "images slots dim"]:
        """With the begin mark before and the end mark after; nothing is beside these."""
        mark = np.zeros((len(inner), 1, inner.shape[-1]), np.float32)
        begin, end = mark.copy(), mark.copy()
        numbers = slice(None) if self.form == "product" else 0
        begin[..., numbers], end[..., numbers] = self.words, self.words + 1
        return np.concatenate([begin, inner, end], axis=1, dtype=np.float32)

    def _means(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images cells dim"]:
        """Mean features of each part of the image.

        Raises:
          ConfigError: the grid of patches cannot be averaged so.
        """
        grids = [self.patches.of(run, name, part) for name, part in images.parts]
        patches = np.concatenate([np.asarray(x, np.float32) for x in grids])
        if patches.shape[1] % self.side or patches.shape[2] % self.side:
            raise ConfigError(
                f"{patches.shape[1]}×{patches.shape[2]} patches cannot be averaged to {self.side}×"
                f"{self.side}; choose a divisor for config.representation.mixed_words.side"
            )
        return np.asarray(pooled(jnp.asarray(patches), self.side)).reshape(
            len(patches), -1, patches.shape[-1]
        )

    def _codes(
        self, x: Float[np.ndarray, "patches kept"], centres: Float[np.ndarray, "words kept"]
    ) -> Int[np.ndarray, "patches chunks"]:
        """The nearest word of each chunk."""
        nearest: Callable[[slice], np.ndarray] = lambda piece: assign(
            np.ascontiguousarray(x[:, piece]),
            np.ascontiguousarray(centres[:, piece]),
            np.zeros(piece.stop - piece.start),
        )[0]
        return np.stack([nearest(piece) for piece in self._pieces(x.shape[1])], axis=-1)

    def _pieces(self, kept: int) -> list[slice]:
        width = kept // self.chunks
        return [slice(j * width, (j + 1) * width) for j in range(self.chunks)]

    def _tables(self, run: Run) -> jax.Array:
        """Rows of each chunk's words. A row starts as that of its centre with the other chunks at
        their mean, so that the sum of a patch's rows starts where the row of its features would.
        """
        own, vocabulary = np.asarray(run.llm.params["embedding"], np.float32), self.vocabulary(run)
        middle = vocabulary.centres.mean(0)
        alone = np.tile(middle, (self.chunks, self.words, 1))
        for j, piece in enumerate(self._pieces(len(middle))):
            alone[j, :, piece] = vocabulary.centres[:, piece]
        every = dataclasses.replace(vocabulary, centres=alone.reshape(-1, len(middle)))
        rng = np.random.default_rng((run.config.seed, 12))
        rows, mean = self.rows_of(run, every, rng), own.mean(0)
        rows = mean / self.chunks + (rows - mean) / self.chunks**0.5
        marks = new_rows.mean_resizing(own, 2 * self.chunks, rng) / self.chunks
        tables = [rows.reshape(self.chunks, self.words, -1), marks.reshape(self.chunks, 2, -1)]
        return jnp.asarray(np.concatenate(tables, axis=1))


def _coded(
    numbers: Int[np.ndarray, " patches"], beside: Float[np.ndarray, "patches dim"]
) -> Float[np.ndarray, "patches more"]:
    """A number, then what stands beside it."""
    return np.concatenate([numbers[:, None], beside], axis=1, dtype=np.float32)
