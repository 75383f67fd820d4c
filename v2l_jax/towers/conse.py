"""ConSE: an image–text tower from any classifier and any sentence encoder (Norouzi et al. 2013,
arXiv 1312.5650).

An image's vector is the mean of its most probable classes' name vectors, weighted by probability.
The text side was never trained with images, so this tower is not a CLIP and reports must not call
it one.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.data.transforms import EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD, clip_preprocess
from v2l_jax.errors import CheckpointError, DataError
from v2l_jax.formats.text_files import read_text
from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.towers import efficientnet
from v2l_jax.towers.bert import load_sentence_encoder
from v2l_jax.towers.image_text import ImageTextTower


def read_class_lemmas(
    synsets_path: str | pathlib.Path, lemmas_path: str | pathlib.Path
) -> list[list[str]]:
    """Reads the names of every class, in the classifier's order.

    Args:
      synsets_path: text file with a WordNet id a line, in class order ("n02123045").
      lemmas_path: text file with "id<tab>name, name, …" lines, in any order.

    Raises:
      DataError: a class has no name.
    """
    lines = read_text(lemmas_path, DataError).splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    synsets = read_text(synsets_path, DataError).split()
    nameless = [synset for synset in synsets if synset not in lemmas]
    if nameless:
        raise DataError(
            f"{lemmas_path} has no name for {len(nameless)} classes of {synsets_path}, first "
            f"{nameless[0]}"
        )
    return [[lemma.strip() for lemma in lemmas[synset].split(", ")] for synset in synsets]


def embed_classes(
    encode_texts: Callable[[list[str]], np.ndarray],
    class_lemmas: list[list[str]],
    template: str,
    lemmas: Literal["first", "mean"],
) -> Float[np.ndarray, "class dim"]:
    """Encodes class names: the first name of each class, or the mean over its names; rows are unit
    vectors.
    """
    names = [group[:1] if lemmas == "first" else group for group in class_lemmas]
    vectors = encode_texts([template.format(name) for group in names for name in group])
    ends = np.cumsum([len(group) for group in names])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return unit_vectors(means)


def conse_embedding(
    logits: Float[Array, "batch class"],
    class_embeddings: Float[Array, "class dim"],
    num_top_classes: int,
    temperature: float,
) -> Float[Array, "batch dim"]:
    """Norouzi et al. 2013, equation 3: Σ p(class) · vector(class) over the most probable classes,
    L2-normalised.

    The paper divides by Σ p, which the normalisation makes irrelevant.

    Args:
      logits: of the classifier.
      class_embeddings: unit vectors of the class names.
      num_top_classes: T, how many classes count.
      temperature: logits are divided by it before the softmax; above 1 flattens the probabilities.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32) / temperature)
    top, classes = jax.lax.top_k(probabilities, num_top_classes)
    mean = jnp.einsum("bt,btd->bd", top, class_embeddings[classes], precision=EXACT)
    return unit_vectors(mean)


def _encode_image(
    classifier: efficientnet.EfficientNet,
    num_top_classes: int,
    temperature: float,
    params: dict[str, Any],
    images: Float[Array | np.ndarray, "batch height width 3"],
) -> Float[Array, "batch dim"]:
    logits = classifier.apply({"params": params["classifier"]}, jnp.asarray(images))
    return conse_embedding(logits, params["class_embeddings"], num_top_classes, temperature)


NEEDS_WEIGHTS = False


def open_tower(
    weights: str, options: Any, locate: Callable[[str], pathlib.Path], dtype: DTypeLike
) -> ImageTextTower:
    """The ConSE of `options`: a classifier and a sentence encoder; see `image_text.open_tower`."""
    del weights
    return load_conse(
        locate(options.classifier),
        locate(options.sentence_encoder),
        locate(options.synsets),
        locate(options.lemmas),
        num_top_classes=options.top_classes,
        template=options.class_template,
        matmul_dtype=dtype,
    )


def load_conse(
    classifier_path: str | pathlib.Path,
    sentence_encoder_path: str | pathlib.Path,
    synsets_path: str | pathlib.Path,
    lemmas_path: str | pathlib.Path,
    *,
    num_top_classes: int = 10,
    temperature: float = 1.0,
    template: str = "a photo of a {}.",
    lemmas: Literal["first", "mean"] = "first",
    matmul_dtype: DTypeLike = jnp.float32,
) -> ImageTextTower:
    """Joins an EfficientNet-Lite classifier and a sentence encoder into one tower of kind "conse".

    Args:
      classifier_path: see `efficientnet.load_efficientnet`.
      sentence_encoder_path: see `bert.load_sentence_encoder`.
      synsets_path, lemmas_path: names of the classes, see `read_class_lemmas`.
      num_top_classes, temperature: see `conse_embedding`.
      template: text around a class name, `{}` where the name goes.
      lemmas: "first" uses a class's first name, "mean" the mean vector of all its names.
      matmul_dtype: type that both networks' matrix products round their operands to.

    Raises:
      CheckpointError: the classifier does not have as many outputs as there are class names.
    """
    classifier, classifier_params, image_size = efficientnet.load_efficientnet(
        classifier_path, matmul_dtype
    )
    encoder = load_sentence_encoder(sentence_encoder_path, matmul_dtype)
    class_lemmas = read_class_lemmas(synsets_path, lemmas_path)
    if len(class_lemmas) != classifier.num_classes:
        raise CheckpointError(
            f"{classifier_path} has {classifier.num_classes} outputs, {synsets_path} names "
            f"{len(class_lemmas)} classes"
        )
    params = {
        "classifier": classifier_params,
        "class_embeddings": embed_classes(encoder.encode_texts, class_lemmas, template, lemmas),
    }
    return ImageTextTower(
        name=f"conse({pathlib.Path(classifier_path).stem}, {encoder.name})",
        kind="conse",
        image_size=image_size,
        dim=encoder.dim,
        params=jax.device_put(params),
        preprocess=functools.partial(
            clip_preprocess, size=image_size, mean=EFFICIENTNET_LITE_MEAN, std=EFFICIENTNET_LITE_STD
        ),
        encode_image=functools.partial(_encode_image, classifier, num_top_classes, temperature),
        encode_texts=encoder.encode_texts,
    )
