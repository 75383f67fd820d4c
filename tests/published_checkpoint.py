"""A small random checkpoint with the array names and layouts of the published code."""

import numpy as np


def published_arrays(local_words, global_words, dim, seed=0):
    """Two levels of 32 and 64 channels, one block a level, eight channels between; random.

    Args:
      local_words, global_words: entries of the codebooks.
      dim: length of their vectors.
      seed: of the weights.
    """
    rng, arrays = np.random.default_rng(seed), {}

    def linear(name, out, width, bias=True, kernel=()):
        shape = (out, width, *kernel)
        scale = np.prod(shape[1:]) ** -0.5
        arrays[f"{name}.weight"] = (rng.standard_normal(shape) * scale).astype("f4")
        if bias:
            arrays[f"{name}.bias"] = (rng.standard_normal(out) * 0.05).astype("f4")

    def conv(name, out, width, side=3):
        linear(name, out, width, kernel=(side, side))

    def norm(name, width):
        arrays[f"{name}.weight"] = (1 + 0.1 * rng.standard_normal(width)).astype("f4")
        arrays[f"{name}.bias"] = (0.1 * rng.standard_normal(width)).astype("f4")

    def block(name, width, out):
        norm(f"{name}.norm1", width)
        conv(f"{name}.conv1", out, width)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out)
        if width != out:
            conv(f"{name}.nin_shortcut", out, width, 1)

    for side in ("encoder", "decoder"):
        for name in ("block_1", "block_2"):
            block(f"{side}.mid.{name}", 64, 64)
        norm(f"{side}.mid.attn_1.norm", 64)
        for name in ("q", "k", "v", "proj_out"):
            conv(f"{side}.mid.attn_1.{name}", 64, 64, 1)
    conv("encoder.conv_in", 32, 3)
    block("encoder.down.0.block.0", 32, 32)
    conv("encoder.down.0.downsample.conv", 32, 32)
    block("encoder.down.1.block.0", 32, 64)
    norm("encoder.norm_out", 64)
    conv("encoder.conv_out", 8, 64)
    conv("quant_conv", dim, 8, 1)
    conv("post_quant_conv", 8, dim, 1)
    linear("codebook_projection", dim, dim)
    conv("decoder.conv_in", 64, 8)
    linear("decoder.mid.cross_attn_1.to_q", 512, 64, bias=False)
    linear("decoder.mid.cross_attn_1.to_k", 512, dim, bias=False)
    linear("decoder.mid.cross_attn_1.to_v", 512, dim, bias=False)
    linear("decoder.mid.cross_attn_1.to_out.0", 64, 512)
    for number in (0, 1):
        block(f"decoder.up.1.block.{number}", 64, 64)
    conv("decoder.up.1.upsample.conv", 64, 64)
    block("decoder.up.0.block.0", 64, 32)
    block("decoder.up.0.block.1", 32, 32)
    norm("decoder.norm_out", 32)
    conv("decoder.conv_out", 3, 32)
    for name, count in (("tok_embeddings", local_words), ("tok_embeddings_global", global_words)):
        rows = rng.standard_normal((count, dim))
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        arrays[f"{name}.weight"] = unit.astype("f4")
    return arrays
