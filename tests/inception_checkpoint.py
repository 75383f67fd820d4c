"""FID's InceptionV3 in the layout of pytorch-fid's release."""

import jax
import numpy as np


def torchvision_layout(params, rng):
    """A checkpoint as pytorch-fid's, whose convolutions and norms fold to `params`; with a random
    classifier.
    """
    tensors = {
        "fc.weight": rng.standard_normal((1008, 2048)).astype(np.float32),
        "fc.bias": np.ones(1008, np.float32),
    }
    for path, kernel in jax.tree_util.tree_leaves_with_path(params):
        *names, _, leaf = (key.key for key in path)
        name = ".".join(names)
        if leaf != "kernel":
            continue
        module = params
        for part in names:
            module = module[part]
        scale, mean, variance = (
            rng.uniform(0.5, 2, kernel.shape[-1]).astype(np.float32) for _ in range(3)
        )
        factor = scale / np.sqrt(variance + 1e-3)
        tensors[f"{name}.conv.weight"] = (kernel / factor).transpose(3, 2, 0, 1)
        tensors[f"{name}.bn.weight"], tensors[f"{name}.bn.running_mean"] = scale, mean
        tensors[f"{name}.bn.running_var"], tensors[f"{name}.bn.bias"] = (
            variance,
            module["conv"]["bias"] + mean * factor,
        )
    return tensors
