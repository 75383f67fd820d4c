"""VQ-GAN* (Zhu et al. 2024, Table 3): VQ-GAN whose codebook is frozen, the LLM's word vectors.

The vectors are those of the run's local codebook, without a projector and without normalizing the
features; the codebook term of the quantizer's loss has no parameter to move.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax.typing import Dtype
from jaxtyping import Array, Float

from v2l_jax.tokenizers.base import Batch, Variables
from v2l_jax.tokenizers.vqgan import VQGAN, network_of

WORDS = ("local",)


@dataclasses.dataclass(frozen=True)
class VQGANStar(VQGAN):
    """VQ-GAN over frozen word vectors, the "frozen" array "local_words" [entries, dim]."""

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The word vectors."""
        return {"local_words": words["local"]}

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters of the network alone."""
        return {"params": self.network.init(key, batch["image"])["params"]}

    def codebook(self, variables: Variables) -> Float[Array, "entries d"]:
        """The word vectors; no gradient."""
        return jax.lax.stop_gradient(variables["frozen"]["local_words"])


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> VQGANStar:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    entries, dim = words["local"].shape
    network = network_of(model, dim, dtype)
    return VQGANStar(network, entries, quantizer_weight=train.weight_quantizer)
