"""What training starts from, and what every evaluation says about the codebook."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.jobs import train
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.run import building, loading
from v2l_jax.tokenizers import save_tokenizer
from v2l_jax.tokenizers.projector_fit import fit_projector

IMAGES = 21


@pytest.mark.parametrize("decoded", [5, 21])
def test_words_are_counted_over_all_held_out_photos(monkeypatch, decoded):
    """Against float64 distances and a plain histogram; 21 photos fill no batch of 16 over eight
    devices.
    """
    config = synthetic_config.get_config()
    config.evaluate.batch_size = 16
    monkeypatch.setattr(train, "EVALUATION_IMAGES", decoded)
    random, dim = np.random.RandomState(0), synthetic_config.DIM
    words = {
        name: random.randn(count, dim).astype("f4")
        for name, count in (("local_words", 50), ("global_words", 21))
    }
    model, mesh = building.tokenizer(config, 50, 21, dim), make_mesh({"data": 8})
    held_out = WithVectors(
        SyntheticSource(IMAGES, 20, seed=1), random.randn(IMAGES, dim).astype("f4")
    )
    params = jax.jit(lambda: building.initial_state(config, model, IMAGES).params)()
    transform = building.image_transform(config, augment=False)
    images = np.stack(
        [transform(held_out[i], np.random.default_rng(0))["image"] for i in range(IMAGES)]
    )
    features = model.apply(
        {"params": params, "frozen": words}, jnp.asarray(images), method="encode"
    ).reshape(-1, dim)
    params["projector"] = fit_projector(
        jnp.asarray(words["local_words"]), features
    )  # or all share one word
    params["projector"]["kernel"] *= 3.0  # and now some are too far away
    features = np.asarray(features, float)
    metrics = train.evaluator(config, model, {"model": words}, held_out, mesh)(
        types.SimpleNamespace(eval_params=params)
    )

    projected = words["local_words"].astype(float) @ np.asarray(
        params["projector"]["kernel"], float
    ) + np.asarray(params["projector"]["bias"])
    counts = np.bincount(((features[:, None] - projected) ** 2).sum(-1).argmin(1), minlength=50)
    share = counts[counts > 0] / counts.sum()
    assert 5 < len(share) < 50, "or the test says little"
    assert metrics["codebook_usage"] == len(share) / 50 and metrics["dead_words"] == 50 - len(share)
    assert metrics["perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)


@pytest.fixture
def released(tmp_path):
    """A tokenizer as files, its parameters, and the config and words that it was made with."""
    config, dim = synthetic_config.get_config(), synthetic_config.DIM
    config.train.ema_decay, config.mesh.data, config.mesh.fsdp = 0.9, 2, 4
    vectors = np.random.RandomState(0).randn(60, dim).astype("f4")
    words = [
        Codebook(
            vectors[rows], tuple(f" w{i}" for i in rows), tuple((i,) for i in rows), "tower", "llm"
        )
        for rows in (range(50), range(50, 60))
    ]
    model = building.tokenizer_for(config, *words)
    params = jax.device_get(jax.jit(lambda: building.initial_state(config, model, IMAGES).params)())
    params = jax.tree.map(
        lambda leaf: leaf + np.random.RandomState(leaf.size).randn(*leaf.shape).astype("f4"), params
    )
    sizes = {"image_size": config.model.image_size, "global_tokens": config.model.global_tokens}
    save_tokenizer(tmp_path / "tiny", model, params, *words, **sizes, name="tiny", dtype="float32")
    config.train.start_from = str(tmp_path / "tiny")
    return config, words, params


def test_training_starts_from_a_released_tokenizer(released):
    """Parameters and their average are the file's, where the mesh wants them; nothing else changes."""
    config, words, params = released
    model, mesh = building.tokenizer_for(config, words[0], words[1]), loading.shared_mesh(config)
    fresh = building.placed_state(config, model, IMAGES, mesh)
    state = building.with_released_params(config, fresh, model, words[0])
    for tree in (state.params, state.ema_params):
        jax.tree.map(np.testing.assert_array_equal, tree, params)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(
        lambda leaf: leaf.sharding, fresh
    )
    for kept in ("step", "disc_params", "disc_batch_stats", "opt_state", "disc_opt_state", "rng"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, kept), getattr(fresh, kept))


def test_a_run_that_resumes_does_without_the_released_tokenizer(released):
    config, words, _ = released
    model, mesh = building.tokenizer_for(config, *words), loading.shared_mesh(config)
    config.train.start_from = "nowhere"
    with pytest.raises(CheckpointError, match="nowhere"):
        train.first_state(config, model, IMAGES, mesh, words[0], resumes=False)
    state = train.first_state(config, model, IMAGES, mesh, words[0], resumes=True)
    jax.tree.map(
        np.testing.assert_array_equal, state, building.placed_state(config, model, IMAGES, mesh)
    )


def test_a_released_tokenizer_of_other_words_or_sizes_is_refused(released):
    config, words, _ = released
    model = building.tokenizer_for(config, *words)
    state = building.initial_state(config, model, IMAGES)
    with pytest.raises(ConfigError, match="tiny has 50 local words"):
        building.with_released_params(config, state, model, words[1])
    with pytest.raises(ConfigError, match="tiny has num_res_blocks 1, config.model 2"):
        building.with_released_params(config, state, model.clone(num_res_blocks=2), words[0])
    config.train.start_from = "nowhere"
    with pytest.raises(CheckpointError, match="nowhere"):
        building.with_released_params(config, state, model, words[0])
