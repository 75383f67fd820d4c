"""Classes as a language model is asked about them: their names, the label of each image, and the
order of the examples.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from v2l_jax.data.episodes import Episode, read_class_names
from v2l_jax.errors import AssetError
from v2l_jax.run import loading

_WORDNET_ID = re.compile(r"n\d{8}")


def named_labels(
    photos: loading.Photos, given: Mapping[str, str]
) -> tuple[Int[np.ndarray, " images"], list[str]]:
    """The label of each of the run's images, training ones first, and what the language model shall
    call each class.

    Of two classes with one name ("crane", twice in ImageNet) only the first is kept; images of the
    other are unlabelled.
    """
    new_label, names = _kept(photos, given)
    labels = np.concatenate([photos.train.labels, photos.held_out.labels])
    return np.asarray([*new_label, -1])[labels], names


def names_of(photos: loading.Photos, given: Mapping[str, str]) -> list[str]:
    """The names of `named_labels`, without the labels: no image is read for them."""
    return _kept(photos, given)[1]


def _kept(photos: loading.Photos, given: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """For each class of the images its place among the names, and the names."""
    ids = photos.held_out.class_names
    names = class_names(ids, given)
    kept: dict[str, int] = {}
    new_label = []
    for i in ids:
        new_label.append(-1 if names[i] in kept else len(kept))
        kept.setdefault(names[i], len(kept))
    return new_label, list(kept)


def class_names(ids: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The name of each class: what `given` says, else for a WordNet id its first word, else the
    class's own name.
    """
    wordnet: dict[str, str] = {}
    if any(_WORDNET_ID.fullmatch(i) and i not in given for i in ids):
        wordnet = read_class_names(loading.locate("imagenet-lemmas"))
    return {i: given.get(i, wordnet.get(i, i)) for i in ids}


def shown_names(ids: Sequence[str]) -> list[str]:
    """What a page calls each class: a WordNet id's first word where the names are at hand."""
    try:
        names = class_names(ids, {})
    except AssetError:  # a page is made offline too
        return list(ids)
    return [names[i] for i in ids]


def nearest_last(
    episodes: Sequence[Episode], vectors: Float[np.ndarray, "images dim"]
) -> list[Episode]:
    """The episodes with their shots sorted so that the one most similar to the query comes last.

    Models weigh the end of a prompt most (Lu et al. 2022); similarity is the inner product of the
    images' vectors.
    """

    def sorted_shots(episode: Episode) -> Episode:
        query = vectors[episode.query.index]
        shots = sorted(episode.shots, key=lambda shot: float(vectors[shot.index] @ query))
        return dataclasses.replace(episode, shots=tuple(shots))

    return [sorted_shots(episode) for episode in episodes]
