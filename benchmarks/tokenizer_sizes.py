"""Parameters, arithmetic, tokens and bits of the tokenizers at the papers' sizes.

python -m benchmarks.tokenizer_sizes

Nothing is trained or loaded: shapes are traced, and XLA counts the operations of encoding and
decoding one image (a multiplication and an addition are two). About a minute.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from v2l_jax import experiment
from v2l_jax.run import building
from v2l_jax.tokenizers.base import VisualTokenizer

_LLAMA = 32_000  # subwords
_GLOBAL = 11_908


@dataclasses.dataclass(frozen=True)
class Row:
    """One tokenizer: how the default config changes, and the codebooks of words it is made over."""

    name: str
    changes: dict[str, Any]
    words: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


ROWS = (
    Row("VQ-GAN, 128 px", {"kind": "vqgan"}),
    Row("VQ-GAN*, LLaMA-2's embeddings", {"kind": "vqgan_star"}, {"local": (_LLAMA, 4096)}),
    Row("SPAE-6", {"kind": "spae"}, {"local": (_LLAMA, 4096), "candidates": (_LLAMA, 768)}),
    Row(
        "SPAE-8",
        {"kind": "spae", "spae.sides": (1, 2, 4, 8, 16, 16, 16, 16)},
        {"local": (_LLAMA, 4096), "candidates": (_LLAMA, 768)},
    ),
    Row("V2L, 21 global words", {}, {"local": (_LLAMA, 768), "global": (_GLOBAL, 768)}),
    Row(
        "LQAE*, words alone, 128 px",
        {"kind": "lqae", "lqae.language_model": "", "lqae.patch": 8},
        {"local": (_LLAMA, 768)},
    ),
    Row(
        "VQGAN f16-16384, 256 px",
        {
            "kind": "vqgan",
            "image_size": 256,
            "channel_multipliers": (1, 1, 2, 2, 4),
            "vqgan.entries": 16_384,
        },
    ),
    Row("TiTok, 64 tokens", {"kind": "titok"}),
    Row("VQ-L2 16,384 × 8", {"kind": "vqgan", "vqgan.quantizer": "vq_l2"}),
    Row("IBQ 16,384 × 256", {"kind": "vqgan", "vqgan.quantizer": "ibq"}),
    Row("FSQ 15,360", {"kind": "vqgan", "vqgan.quantizer": "fsq"}),
    Row("LFQ, 18 bits", {"kind": "vqgan", "vqgan.quantizer": "lfq"}),
    Row("BSQ, 18 bits", {"kind": "vqgan", "vqgan.quantizer": "bsq"}),
    Row("SimVQ 16,384 × 128", {"kind": "vqgan", "vqgan.quantizer": "sim_vq"}),
    Row(
        "4 codebooks × 4,096",
        {
            "kind": "vqgan",
            "vqgan.quantizer": "multi_codebook",
            "quantizers.multi_codebook.parts": 4,
        },
    ),
)


def main() -> None:
    """Prints the table."""
    print(
        "| tokenizer | px | trained parameters, M | encode, GFLOP | decode, GFLOP | tokens | bits |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        print(f"| {row.name} | {' | '.join(cells(row))} |", flush=True)


def cells(row: Row) -> list[str]:
    """What the table says of one tokenizer."""
    config = experiment.default()
    config.model.dtype = "float32"
    for path, value in row.changes.items():
        _set(config.model, path, value)
    words = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in row.words.items()}
    tokenizer = building.tokenizer(
        config, {name: np.broadcast_to(np.float32(0), x.shape) for name, x in words.items()}
    )
    side = config.model.image_size
    batch = {
        name: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        for name, shape in tokenizer.input_shapes(side).items()
    }
    params = jax.eval_shape(lambda: tokenizer.init(jax.random.key(0), _ones(batch)))["params"]
    frozen = jax.eval_shape(lambda: tokenizer.frozen(_ones(words)))
    variables = {"params": params, "frozen": frozen}
    tokens = jax.eval_shape(tokenizer.encode, variables, batch)
    bits = sum(ids.size * math.log2(tokenizer.choices[name]) for name, ids in tokens.items())
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    return [
        str(side),
        f"{trained / 1e6:.1f}",
        f"{_gflop(tokenizer, 'encode', variables, batch):.0f}",
        f"{_gflop(tokenizer, 'decode', variables, tokens):.0f}",
        f"{sum(ids.size for ids in tokens.values()):,}",
        f"{bits:,.0f}",
    ]


def _ones(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    return {name: jnp.ones(x.shape, x.dtype) for name, x in shapes.items()}


def _gflop(tokenizer: VisualTokenizer, method: str, *arguments: Any) -> float:
    lowered = jax.jit(getattr(tokenizer, method)).lower(*arguments)
    return (lowered.cost_analysis() or {})["flops"] / 1e9


def _set(config: ConfigDict, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = value


if __name__ == "__main__":
    main()
