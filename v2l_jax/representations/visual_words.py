"""Visual words: an image is written as the nearest k-means centres of its patches' features, which
become new rows of the language model's input embedding.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.kmeans import KMeans, Points, fit, sample
from v2l_jax.codebook.kmeans_variants import (
    class_weights,
    explained_variance,
    fit_in_batches,
    fit_per_class,
)
from v2l_jax.codebook.nearest_centres import assign
from v2l_jax.codebook.visual_vocabulary import (
    PreparedPoints,
    VisualVocabulary,
    inliers,
    preparation,
    prepared,
)
from v2l_jax.errors import ConfigError, V2LError
from v2l_jax.formats.text_files import read_json
from v2l_jax.llm import new_rows
from v2l_jax.metrics.codebook_usage import summarise
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import COUNT, FLAG, POSITIVE, TEXT, number, one_of, option
from v2l_jax.report.data import Gallery
from v2l_jax.representations import visual_words_page, word_sequences
from v2l_jax.representations.base import Ids, ImageSet, Segments, Written
from v2l_jax.representations.patch_options import PATCH_OPTIONS, PatchOptions
from v2l_jax.representations.word_rows import first_rows, said_digest
from v2l_jax.representations.word_sequences import Sequence_
from v2l_jax.run.run import Run


class Clustered(NamedTuple):
    """Centres of the training images' patches, how many are nearest to each, and the sum of their
    squared distances.
    """

    centres: Float[np.ndarray, "words kept"]
    counts: np.ndarray
    objective: float


@dataclasses.dataclass(frozen=True)
class Options(PatchOptions):
    """Options of visual words. The budget counts words."""

    words: int = option(1024, "k-means centres", number(2, integer=True))
    start: str = option("k-means++", "of k-means", one_of("random", "k-means++"))
    iterations: int = option(25, "of k-means", POSITIVE)
    restarts: int = option(1, "of k-means; the best is kept", POSITIVE)
    spherical: bool = option(False, "k-means on unit vectors", FLAG)
    most_points: int = option(
        256, "training patches a word that are drawn for k-means and kept in memory; 0 = all", COUNT
    )
    passes: int = option(
        0,
        "of mini-batch k-means over all training patches, a batch in memory at a time; 0: "
        "`iterations` over those that are drawn",
        COUNT,
    )
    components: int = option(0, "principal components that are kept; 0 = all features", COUNT)
    whiten: bool = option(False, "bring every component to variance one", FLAG)
    outliers: float = option(
        0.0,
        "leave patches out of k-means whose norm is above the median by so many median absolute "
        "deviations; 0 = none",
        number(0),
    )
    supervision: str = option(
        "none",
        "'class': words of each class apart; 'weights': features weighed by what they tell of the "
        "class",
        one_of("none", "class", "weights"),
    )
    sequence: str = option(
        "order",
        "'order': a word a patch, row by row; 'run_length': neighbours of one word written once; "
        "'bag': each word once, the most frequent first; 'clusters': a word a cluster of patches",
        one_of("order", "run_length", "bag", "clusters"),
    )
    threshold: float = option(0.65, "similarity of a cluster's patches (DiVT's θ)", number(-1, 1))
    row_ends: bool = option(False, "a word of its own ends each row; for 'order'", FLAG)
    rows_start: str = option(
        "projected", "where the new rows of the embedding start", one_of(*new_rows.STARTS)
    )
    said: str = option(
        "",
        "what is said of training images, for rows_start 'ridge': '' is their classes' names; else "
        "captions, as representation.caption.file, or a folder of easy-VQA's, of which all answers "
        "but yes and no count",
        TEXT,
    )

    def fingerprint(self) -> dict[str, Scalar]:
        """The options that are not their default, after the tower, layer and size."""
        always = ("tower", "layer", "image_size", "pool", "words", "sequence")
        default = {f.name: f.default for f in dataclasses.fields(self)}
        values = dataclasses.asdict(self)
        known = {n: v for n, v in values.items() if n in always or v != default[n]}
        return known | ({"said": said_digest(self.said)} if self.said else {})

    def vocabulary(self, run: Run) -> VisualVocabulary:
        """What the vocabulary job made.

        Raises:
          CheckpointError: it made nothing yet.
          ConfigError: it made other words.
        """
        path = vocabulary_path(run.workdir)
        found = VisualVocabulary.load(path)
        found.check_made_with(self.made_with(run), path)
        return found

    def made_with(self, run: Run) -> dict[str, Any]:
        """What the vocabulary depends on."""
        names = (
            *PATCH_OPTIONS,
            "words",
            "start",
            "iterations",
            "restarts",
            "spherical",
            "most_points",
        )
        names += ("components", "whiten", "outliers", "supervision")
        values = {name: getattr(self, name) for name in names}
        values |= {"passes": self.passes} if self.passes else {}
        return values | {"seed": run.config.seed, "data": run.config.data.name}

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Writes the words of each part of the images into the folder words/ of the workdir, unless
        they are there.
        """
        del budget
        vocabulary = self.vocabulary(run)
        for name, part in images.parts:
            path = self.path_of_words(run, name, part)
            if not path.exists():
                features = self.patches.of(run, name, part)
                found = [self.sequence_of(vocabulary, x) for x in features]
                grid = [int(n) for n in features.shape[1:3]]
                with atomic_write(path) as draft:
                    draft.write_text(json.dumps({"grid": grid, "images": found}))

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The begin word, the image's words, and the end word."""
        first, words = run.llm.model.config.vocab_size, self.words
        sequences, columns = [], 0
        for name, part in images.parts:
            found = self.sequences(run, name, part)
            columns = found["grid"][1]
            sequences += found["images"]

        def write(index: int) -> Segments:
            ids = [word for word, _ in sequences[index][:budget]]
            if self.row_ends and self.sequence == "order":
                ends = range(columns, len(ids) + 1, columns)
                for count, at in enumerate(ends):
                    ids.insert(at + count, words + 2)
            ids = [words, *ids, words + 1]
            text = "".join(self.word_text(word) for word in ids)
            return (Ids(tuple(first + word for word in ids), text),)

        return Written(len(images), write)

    def shortest(self, budget: int) -> Segments:
        """The begin word, one word, and the end word."""
        del budget
        return (Ids((0, 0, 0)),)

    def word_text(self, word: int) -> str:
        """What a reader sees of a word."""
        special = {self.words: "<img>", self.words + 1: "</img>", self.words + 2: "<row>"}
        return special.get(word, f"<{word}>")

    summary_names = ("bag_of_words", "mean_features")

    def summaries(self, run: Run, images: ImageSet) -> dict[str, Float[np.ndarray, "images _"]]:
        """The roots of the words' counts, of length one; and the mean features of the patches."""
        bags, means = [], []
        for name, part in images.parts:
            features = self.patches.of(run, name, part)
            means.append(np.asarray(features, np.float64).mean((1, 2)))
            for sequence in self.sequences(run, name, part)["images"]:
                counts = np.bincount([word for word, _ in sequence], minlength=self.words)
                bags.append(np.sqrt(counts / counts.sum()))
        return {"bag_of_words": np.stack(bags), "mean_features": np.concatenate(means)}

    def row_names(self) -> list[str]:
        """<visual_0> and so on, then the marks about an image."""
        return [*(f"<visual_{i}>" for i in range(self.words)), "<img>", "</img>", "<row>"]

    def sequences(self, run: Run, name: str, part: Any) -> dict[str, Any]:
        """What `prepare` wrote of a part: "grid", rows and columns of patches, and "images", for
        each its words with the numbers of their patches.
        """
        path = self.path_of_words(run, name, part)
        found = read_json(path, V2LError, dict, "delete it, and it is made again")
        try:
            images = [[(word, tuple(cells)) for word, cells in one] for one in found["images"]]
            return {"grid": tuple(found["grid"]), "images": images}
        except (KeyError, TypeError, ValueError) as error:
            raise V2LError(
                f"{path} is damaged ({error!r:.80}); delete it, and it is made again"
            ) from error

    def sequence_of(
        self, vocabulary: VisualVocabulary, features: Float[np.ndarray, "rows columns dim"]
    ) -> Sequence_:
        """The words of one image."""
        flat = np.asarray(features, np.float32).reshape(-1, features.shape[-1])
        if self.sequence == "clusters":
            return word_sequences.clusters(flat, self.threshold, vocabulary.words)
        words = vocabulary.words(flat)
        made = {
            "order": word_sequences.in_order,
            "run_length": word_sequences.run_length,
            "bag": word_sequences.bag,
        }
        return made[self.sequence](words)

    def places(
        self, run: Run, images: ImageSet
    ) -> tuple[tuple[int, int], list[list[tuple[int, ...]]], str] | None:
        """The patches of each word; None where the words are not written, or row ends among
        them.
        """
        paths = [self.path_of_words(run, name, part) for name, part in images.parts]
        if self.row_ends or not all(path.exists() for path in paths):
            return None
        found = [self.sequences(run, name, part) for name, part in images.parts]
        cells = [[patches for _, patches in one] for part in found for one in part["images"]]
        return found[0]["grid"], cells, self.fit

    def galleries(self, run: Run) -> list[Gallery]:
        """Patches coloured by word, and the nearest patches of each word."""
        return visual_words_page.galleries(self, run)

    def new_rows(self, run: Run) -> Float[np.ndarray, "rows hidden"]:
        """A row a word, then those of begin, end and row end."""
        own = np.asarray(run.llm.params["embedding"], np.float32)
        rng = np.random.default_rng((run.config.seed, 11))
        special = new_rows.mean_resizing(own, 3, rng)
        return np.concatenate([self.rows_of(run, self.vocabulary(run), rng), special])

    def rows_of(
        self, run: Run, vocabulary: VisualVocabulary, rng: np.random.Generator
    ) -> Float[np.ndarray, "words hidden"]:
        """Where the rows of a vocabulary's centres start."""
        features = self.patches.of(run, "train", run.photos.train)
        return first_rows(self.rows_start, self.said, run, features, vocabulary, rng)

    def clustered(self, run: Run, points: Points, labels: np.ndarray) -> Clustered:
        """Clusters the training images' patches.

        Args:
          run: the run.
          points: prepared features.
          labels: of the images that they are of.
        """
        how = kmeans_of(self, run)
        if self.passes:
            found = fit_in_batches(points, how, epochs=self.passes, mesh=run.mesh)
            return Clustered(found.centres, found.counts, found.objectives[-1])
        if self.supervision == "class":
            centres = fit_per_class(points, labels, how, run.mesh).centres
        else:
            state = vocabulary_path(run.workdir).with_name("kmeans.npz")
            state.parent.mkdir(parents=True, exist_ok=True)
            centres = fit(points, how, run.mesh, state).centres
            state.unlink(missing_ok=True)
        nearest, objective = assign(points, centres, np.zeros(points.shape[1]), run.mesh)
        return Clustered(centres, np.bincount(nearest, minlength=self.words), objective)

    def path_of_words(self, run: Run, name: str, part: Any) -> pathlib.Path:
        """Where `prepare` writes the words of a part."""
        known = self.made_with(run) | {
            "sequence": self.sequence,
            "threshold": self.threshold if self.sequence == "clusters" else None,
        }
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
        return run.workdir / "words" / f"visual-{run.file_name(name, part)}-{digest}.json"


def vocabulary_path(workdir: pathlib.Path) -> pathlib.Path:
    """Where the vocabulary job leaves the words."""
    return workdir / "vocabulary" / "visual_words.safetensors"


def make_vocabulary(options: Options, run: Run) -> VisualVocabulary:
    """Clusters the patches of the training images, and writes the words' file.

    Raises:
      ConfigError: passes over all patches are asked for with what needs them at once.
      DataError: fewer patches than words.
    """
    if options.passes and (options.outliers or options.supervision == "class"):
        raise ConfigError(
            "mini-batch k-means neither leaves outliers out nor clusters each class apart; set "
            f"passes=0, or outliers=0.0 (here {options.outliers}) and supervision='none' "
            f"(here {options.supervision!r})"
        )
    source, path = run.photos.train, vocabulary_path(run.workdir)
    features = options.patches.of(run, "train", source)
    every = features.reshape(-1, features.shape[-1])
    labels = np.repeat(np.asarray(source.labels), features.shape[1] * features.shape[2])
    rows = sample(np.arange(len(every)), options.most_points * options.words, run.config.seed)
    flat, labels = np.asarray(every[rows], np.float32), labels[rows]
    if options.outliers:
        kept = inliers(flat, options.outliers)
        logging.info("%d of %d patches are outliers and left out", np.sum(~kept), len(kept))
        flat, labels = flat[kept], labels[kept]
    mean, projection = preparation(flat, options.components, options.whiten)
    if options.supervision == "weights":
        weights = class_weights(prepared(flat, mean, projection, False), labels)
        projection = projection * weights
    if options.passes:
        points = PreparedPoints(every, mean, projection, options.spherical)
    else:
        points = prepared(flat, mean, projection, options.spherical)
    found = options.clustered(run, points, labels)
    usage = summarise(found.counts)
    health = {
        "usage": usage.fraction,
        "perplexity": usage.perplexity,
        "explained_variance": explained_variance(found.objective, points),
    }
    vocabulary = VisualVocabulary(
        found.centres, mean, projection, options.spherical, options.made_with(run), health
    )
    vocabulary.save(path)
    logging.info(
        "%d visual words; %.0f %% of the variance of %d patches explained, perplexity %.0f",
        len(vocabulary), 100 * health["explained_variance"], len(points), health["perplexity"],
    )  # fmt: skip
    return vocabulary


def kmeans_of(options: Options, run: Run) -> KMeans:
    """How the options cluster."""
    return KMeans(
        options.words,
        options.iterations,
        options.start,
        options.restarts,
        options.spherical,
        options.most_points,
        run.config.seed,
    )
