"""Floating-point operations of a decoder of the LLaMA family: multiply-adds × 2 of its matrix
products. Norms, softmax and rotations are left out, as is usual (Kaplan et al. 2020, arXiv
2001.08361, section 2.1).
"""

from collections.abc import Sequence

from v2l_jax.llm.llama_config import LlamaConfig
from v2l_jax.llm.lora import PROJECTIONS, Lora, projection_sizes


def matrix_parameters(config: LlamaConfig) -> int:
    """Parameters of all layers' matrices: the model without embedding, norms and biases."""
    sizes = (projection_sizes(config, name) for name in PROJECTIONS)
    return config.num_layers * sum(out * inner for out, inner in sizes)


def adapter_parameters(config: LlamaConfig, lora: Lora) -> int:
    """Parameters of LoRA's matrices."""
    sizes = (projection_sizes(config, name) for name in lora.targets)
    return config.num_layers * lora.rank * sum(out + inner for out, inner in sizes)


def forward_flops(config: LlamaConfig, length: int | float, logits: int | float = 0) -> float:
    """Operations of one text's forward pass.

    Args:
      config: sizes of the network.
      length: tokens of the text.
      logits: tokens whose logits are computed.
    """
    head = 2 * config.hidden_size * config.vocab_size * logits
    return 2 * matrix_parameters(config) * length + _attention(config, length) + head


def training_flops(
    config: LlamaConfig,
    lora: Lora,
    length: int | float,
    targets: int | float,
    connector: Sequence[tuple[int, int, int]] = (),
    recomputed: bool = False,
) -> float:
    """Operations of one text's training step with LoRA beside frozen matrices: a forward pass, the
    gradients of activations, and those of what trains. Frozen matrices have no gradients, so a
    token costs about 4 operations a parameter instead of 6.

    Args:
      config: sizes of the network.
      lora: what trains.
      length: tokens of the text.
      targets: tokens that are predicted.
      connector: (inner size, columns, rows) of the matrix products of a connector that trains too;
        the first one's input needs no gradient.
      recomputed: whether to count what is computed a second time to save memory, every layer's
        forward pass and the logits. It is left out of what methods are compared by.
    """
    once = forward_flops(config, length, targets)
    adapters = 2 * adapter_parameters(config, lora) * length
    backward = once + _attention(config, length) + 2 * adapters
    between = [2 * inner * columns * rows for inner, columns, rows in connector]
    beside = 3 * sum(between) - (between[0] if between else 0)
    out, inner = projection_sizes(config, "down_proj")  # a layer's last product is needed once
    again = once + adapters - 2 * config.num_layers * out * inner * length if recomputed else 0.0
    return once + adapters + backward + beside + again


def _attention(config: LlamaConfig, length: int | float) -> float:
    """Scores and mixtures of values, each token seeing itself and those before it."""
    width = config.num_heads * config.head_dim
    return 4 * config.num_layers * width * length * (length + 1) / 2
