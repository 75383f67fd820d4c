"""VQ-GAN* (Zhu et al. 2024, Table 3): VQ-GAN whose codebook is frozen, the LLM's word vectors.

The vectors are those of the run's local codebook (`codebook.local_vectors` says which). By default
there is no projector and features are not normalized: the codebook term of the quantizer's loss has
no parameter to move. The options are the steps from there to V2L's local codebook.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.typing import Dtype

from v2l_jax.options import FLAG, option
from v2l_jax.tokenizers.quantizers.words import WordVectors
from v2l_jax.tokenizers.vqgan import VQGAN, network_of

WORDS = ("local",)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of frozen word vectors."""

    normalize: bool = option(False, "divide features by their length, as V2L does", FLAG)
    projected: bool = option(
        False, "compare with the words behind a learned linear map, as V2L (and SimVQ) do", FLAG
    )
    tuned: bool = option(False, "train the vectors too", FLAG)


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> VQGAN:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    rows, width = words["local"].shape
    c = model.vqgan_star
    vectors = WordVectors(rows, width, c.normalize, c.projected, c.tuned)
    return VQGAN(network_of(model, width, dtype), vectors, train.weight_quantizer)
