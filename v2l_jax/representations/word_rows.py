"""Where the rows of visual words start: what `rows_start` names, fitted on a run's training images;
and the patches nearest to each word.
"""

import functools
import hashlib
import pathlib

import numpy as np
from jaxtyping import Float

from v2l_jax.codebook.visual_vocabulary import VisualVocabulary
from v2l_jax.data.questions import answers_by_image, read_easy_vqa
from v2l_jax.data.sources import Source
from v2l_jax.errors import ConfigError
from v2l_jax.llm import new_rows
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.representations import caption
from v2l_jax.representations.base import ImageSet
from v2l_jax.run import loading
from v2l_jax.run.run import Run


def first_rows(
    start: str,
    said: str,
    run: Run,
    features: Float[np.ndarray, "images r c dim"],
    vocabulary: VisualVocabulary,
    rng: np.random.Generator,
) -> Float[np.ndarray, "words hidden"]:
    """A row of the embedding for each word, as it starts.

    Args:
      start: of `new_rows.STARTS`.
      said: what is said of the training images, see `visual_words.Options.said`.
      run: its training images and language model.
      features: of the training images.
      vocabulary: the words.
      rng: for the starts that draw.

    Raises:
      ConfigError: a ridge regression has nothing, or one thing only, that is said.
    """
    own, count = np.asarray(run.llm.params["embedding"], np.float32), len(vocabulary)
    if start == "mean_resizing":
        return new_rows.mean_resizing(own, count, rng)
    if start == "normal":
        return new_rows.normal(count, own.shape[1], rng)
    if start == "mean":
        return new_rows.about_mean(own, count, rng)
    if start == "projected":
        return new_rows.projected(own, vocabulary.centres, rng)
    if start == "ridge":
        return _ridge(said, run, features, vocabulary, own)
    return _aligned(run, features, vocabulary, own)


def _ridge(
    said: str, run: Run, features: np.ndarray, vocabulary: VisualVocabulary, own: np.ndarray
) -> Float[np.ndarray, "words hidden"]:
    """Through a map from images' mean features to the mean rows of what is said of them."""
    texts = texts_of_images(said, run.photos.train)
    if len(set(texts.values())) < 2:
        what = f"in {said}" if said else "by the names of their classes"
        raise ConfigError(
            f"rows_start 'ridge' needs training images of which two things are said {what}; "
            "choose another start, or set representation.visual_words.said"
        )
    means = np.stack([vocabulary.prepare(flat(features[i])).mean(0) for i in texts])
    encode = functools.lru_cache(maxsize=None)(run.llm.tokenizer.encode)
    rows = np.stack([own[encode(f" {text}")].mean(0) for text in texts.values()])
    return new_rows.ridge(own, vocabulary.centres, means, rows)


def texts_of_images(said: str, images: Source) -> dict[int, str]:
    """What is said of training images, by their number; those of which nothing is are missing."""
    if not said:
        names, labels = images.class_names, np.asarray(images.labels)
        return {int(i): names[labels[i]] for i in np.flatnonzero(labels >= 0)}
    paths = ImageSet(("train", images))
    if _is_folder(said):
        answers = answers_by_image(read_easy_vqa(loading.locate(said)))
        found = {i: " ".join(answers.get(path, ())) for i, path in enumerate(paths)}
    else:
        read = caption.Options(file=said)
        found = {i: read.caption_of(path) for i, path in enumerate(paths)}
    return {i: text for i, text in found.items() if text}


def said_digest(said: str) -> str:
    """Which file `said` is, by name and content."""
    path = loading.locate(said)
    content = (path / "questions.json" if _is_folder(said) else path).read_bytes()
    return f"{pathlib.PurePath(said).name} {hashlib.sha256(content).hexdigest()[:12]}"


def _is_folder(said: str) -> bool:
    return loading.locate(said).is_dir()


def _aligned(
    run: Run, features: np.ndarray, vocabulary: VisualVocabulary, own: np.ndarray
) -> Float[np.ndarray, "words hidden"]:
    """Through the image–text tower's vectors of the images that each word's nearest patches lie
    in.
    """
    book = run.local_words
    vectors = run.features("train", run.photos.train)
    _, place = nearest_patches(vocabulary, features, 64)
    of_words = unit_vectors(vectors[place].mean(1), 1e-12)
    rows = np.stack([own[list(ids)].mean(0) for ids in book.token_ids])
    return new_rows.aligned(own, of_words, np.asarray(book.embeddings), rows)


def nearest_patches(
    vocabulary: VisualVocabulary, features: Float[np.ndarray, "images r c dim"], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The patches nearest to each word.

    Returns:
      Their numbers within their image, and those of their images, both int [words, count].
    """
    points = vocabulary.prepare(flat(features))
    lengths = np.sum(points**2, axis=1)
    each = features.shape[1] * features.shape[2]
    found = []
    for centre in vocabulary.centres:
        distance = lengths - 2 * points @ centre
        count = min(count, len(distance))
        nearest = np.argpartition(distance, count - 1)[:count]
        found.append(nearest[np.argsort(distance[nearest], kind="stable")])
    rows = np.stack(found)
    return rows % each, rows // each


def flat(features: Float[np.ndarray, "*shape dim"]) -> Float[np.ndarray, "patches dim"]:
    """Patches of any grid in a row, float32."""
    return np.asarray(features, np.float32).reshape(-1, features.shape[-1])
