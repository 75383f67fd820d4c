"""What every evaluation of a training says about the codebook."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.jobs import building, train
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.tokenizer.projector_fit import fit_projector

IMAGES = 21


@pytest.mark.parametrize("decoded", [5, 21])
def test_words_are_counted_over_all_held_out_photos(monkeypatch, decoded):
    """Against float64 distances and a plain histogram; 21 photos fill no batch of 16 over eight devices."""
    config = synthetic_config.get_config()
    config.evaluate.batch_size = 16
    monkeypatch.setattr(train, "EVALUATION_IMAGES", decoded)
    random, dim = np.random.RandomState(0), synthetic_config.DIM
    words = {name: random.randn(count, dim).astype("f4") for name, count in (("local_words", 50), ("global_words", 21))}
    model, mesh = building.tokenizer(config, 50, 21, dim), make_mesh({"data": 8})
    held_out = WithVectors(SyntheticSource(IMAGES, 20, seed=1), random.randn(IMAGES, dim).astype("f4"))
    params = jax.jit(lambda: building.initial_state(config, model, IMAGES).params)()
    transform = building.image_transform(config, augment=False)
    images = np.stack([transform(held_out[i], np.random.default_rng(0))["image"] for i in range(IMAGES)])
    features = model.apply({"params": params, "frozen": words}, jnp.asarray(images), method="encode").reshape(-1, dim)
    params["projector"] = fit_projector(jnp.asarray(words["local_words"]), features)  # or all share one word
    params["projector"]["kernel"] *= 3.0  # and now some are too far away
    features = np.asarray(features, float)
    metrics = train.evaluator(config, model, {"model": words}, held_out, mesh)(types.SimpleNamespace(best_params=params))

    projected = words["local_words"].astype(float) @ np.asarray(params["projector"]["kernel"], float) + np.asarray(params["projector"]["bias"])
    counts = np.bincount(((features[:, None] - projected) ** 2).sum(-1).argmin(1), minlength=50)
    share = counts[counts > 0] / counts.sum()
    assert 5 < len(share) < 50, "or the test says little"
    assert metrics["codebook_usage"] == len(share) / 50 and metrics["dead_words"] == 50 - len(share)
    assert metrics["perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
