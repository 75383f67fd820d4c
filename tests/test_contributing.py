"""The tokenizer that CONTRIBUTING.md shows works as it stands there."""

import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from v2l_jax.tokenizers.base import VisualTokenizer

_PAGE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"


def _shown() -> types.ModuleType:
    """The page's tokenizer as a module."""
    section = _PAGE.read_text(encoding="utf-8").partition("## Add a tokenizer")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    module = types.ModuleType("nearest_colour")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(code[1], module.__dict__)
    return module


def test_the_tokenizer_shown_learns():
    module = _shown()
    options = ml_collections.ConfigDict({"nearest_colour": {"colours": 4, "patch": 2}})
    tokenizer = module.make(options, None, {}, jnp.float32)
    assert isinstance(tokenizer, VisualTokenizer)
    rng = np.random.default_rng(0)
    batch = {"image": jnp.asarray(rng.uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)}
    variables = tokenizer.init(jax.random.key(0), batch)

    def loss(params):
        out = tokenizer.train_forward(
            {"params": params}, batch, step=jnp.int32(0), key=jax.random.key(1)
        )
        assert out.losses.keys() == tokenizer.loss_weights.keys()
        return out.losses["codebook_loss"]

    params, first = variables["params"], loss(variables["params"])
    for _ in range(5):
        params = jax.tree.map(lambda x, g: x - 0.5 * g, params, jax.grad(loss)(params))

    assert loss(params) < 0.99 * first
    image, tokens = tokenizer.reconstruct({"params": params}, batch)
    assert image.shape == (2, 8, 8, 3) and tokens["local"].shape == (2, 4, 4)
    assert tokenizer.last_kernel[0] in params
