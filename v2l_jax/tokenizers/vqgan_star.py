"""VQ-GAN* (Zhu et al. 2024, Table 3): VQ-GAN whose codebook is frozen, the LLM's word vectors.

The words are those of the run's local codebook. By default their vectors are the tower's, there is
no projector and features are not normalized: the codebook term of the quantizer's loss has no
parameter to move. The options are the row of the paper (`vectors="llm"`), the steps from there to
V2L's local codebook, and codebooks that are made of something else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.typing import Dtype

from v2l_jax.options import FLAG, one_of, option
from v2l_jax.tokenizers.quantizers.words import WordVectors
from v2l_jax.tokenizers.vqgan import VQGAN, network_of

WORDS = ("local",)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of frozen word vectors."""

    vectors: str = option(
        "tower",
        "the words' vectors: 'tower'; 'llm', the language model's embeddings, as published; "
        "'random'; 'patches', k-means of the training images' patches. With `projected`, all but "
        "the tower's are brought to a mean squared length of one",
        one_of("tower", "llm", "random", "patches"),
    )
    normalize: bool = option(False, "divide features by their length, as V2L does", FLAG)
    projected: bool = option(
        False, "compare with the words behind a learned linear map, as V2L (and SimVQ) do", FLAG
    )
    tuned: bool = option(False, "train the vectors too", FLAG)


def word_vectors(model: Any) -> tuple[str, bool]:
    """Which vectors the words have, and whether they are scaled; see `run.word_vectors`."""
    return model.vqgan_star.vectors, model.vqgan_star.projected


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> VQGAN:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    rows, width = words["local"].shape
    c = model.vqgan_star
    vectors = WordVectors(rows, width, c.normalize, c.projected, c.tuned)
    return VQGAN(network_of(model, width, dtype), vectors, train.weight_quantizer)
