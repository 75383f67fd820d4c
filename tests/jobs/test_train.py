"""What training starts from, and what every evaluation says about the codebook."""

import dataclasses
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.jobs import runner, tokenize, train
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.run import building, loading, reconstruction
from v2l_jax.run.workdir import environments, read_json
from v2l_jax.tokenizers.projector_fit import fit_projector
from v2l_jax.training.metric_log import read_metrics

IMAGES = 21


@pytest.mark.mesh
@pytest.mark.parametrize("decoded", [5, 21])
def test_words_are_counted_over_all_held_out_photos(monkeypatch, decoded):
    """Against float64 distances and a plain histogram; 21 photos fill no batch of 16 over eight
    devices.
    """
    config = synthetic_config.get_config()
    config.evaluate.batch_size = 16
    monkeypatch.setattr(reconstruction, "EVALUATION_IMAGES", decoded)
    random, dim = np.random.RandomState(0), synthetic_config.DIM
    words = {
        name: random.randn(count, dim).astype("f4")
        for name, count in (("local", 50), ("global", 21))
    }
    tokenizer, mesh = building.tokenizer(config, words), make_mesh({"data": 8})
    frozen = tokenizer.frozen(words)
    held_out = WithVectors(
        SyntheticSource(IMAGES, 20, seed=1), random.randn(IMAGES, dim).astype("f4")
    )
    trainer = building.trainer(config, tokenizer, IMAGES)
    params = trainer.initial_state().params
    transform = building.image_transform(config, augment=False)
    images = np.stack(
        [transform(held_out[i], np.random.default_rng(0))["image"] for i in range(IMAGES)]
    )
    features = tokenizer.network.apply(
        {"params": params, "frozen": frozen}, jnp.asarray(images), method="encode"
    ).reshape(-1, dim)
    params["projector"] = fit_projector(
        jnp.asarray(words["local"]), features
    )  # or all share one word
    params["projector"]["kernel"] *= 3.0  # and now some are too far away
    features = np.asarray(features, float)
    metrics = reconstruction.evaluator(config, tokenizer, {"model": frozen}, held_out, mesh)(
        types.SimpleNamespace(eval_params=params)
    )

    projected = words["local"].astype(float) @ np.asarray(
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
    books = {"local": words[0], "global": words[1]}
    tokenizer = building.tokenizer(config, building.vectors(books))
    trainer = building.trainer(config, tokenizer, IMAGES, loading.shared_mesh(config))
    params = jax.device_get(trainer.initial_state().params)
    params = jax.tree.map(
        lambda leaf: leaf + np.random.RandomState(leaf.size).randn(*leaf.shape).astype("f4"), params
    )
    tokenizer.save(tmp_path / "tiny", params, books, image_size=16, name="tiny", dtype="float32")
    return types.SimpleNamespace(
        path=str(tmp_path / "tiny"), books=books, trainer=trainer, params=params
    )


@pytest.mark.mesh
def test_training_starts_from_a_released_tokenizer(released):
    """Parameters and their average are the file's, where the mesh wants them; nothing else
    changes.
    """
    trainer = released.trainer
    params = trainer.tokenizer.pretrained(released.path, released.books)
    fresh, state = trainer.placed_state(), trainer.placed_state(params)
    for tree in (state.params, state.ema_params):
        jax.tree.map(np.testing.assert_array_equal, tree, released.params)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(
        lambda leaf: leaf.sharding, fresh
    )
    for kept in ("step", "disc_params", "disc_batch_stats", "opt_state", "disc_opt_state", "rng"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, kept), getattr(fresh, kept))


@pytest.mark.mesh
def test_a_released_tokenizer_of_other_words_or_sizes_is_refused(released):
    tokenizer, books = released.trainer.tokenizer, released.books
    with pytest.raises(ConfigError, match="tiny has 50 local words"):
        tokenizer.pretrained(released.path, {"local": books["global"]})
    other = dataclasses.replace(tokenizer, network=tokenizer.network.clone(num_res_blocks=2))
    with pytest.raises(ConfigError, match="tiny has num_res_blocks 1, config.model 2"):
        other.pretrained(released.path, books)
    with pytest.raises(CheckpointError, match="nowhere"):
        tokenizer.pretrained("nowhere", books)


def test_a_run_that_resumes_does_without_the_released_tokenizer(tmp_path):
    """Its files may be on the machine that began the run."""
    config = synthetic_config.get_config()
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    config.train.steps, config.train.disc_start = 2, 100
    config.train.eval_every = config.train.checkpoint_every = 2
    train.run(config, tmp_path)
    (tmp_path / "training.json").unlink()
    config.train.steps, config.train.start_from = 4, "nowhere"
    train.run(config, tmp_path)
    assert read_json(tmp_path / "training.json", {})["steps"] == 4
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="nowhere"):
        train.run(config, tmp_path)


def test_a_finished_run_can_be_prolonged_in_its_folder(tmp_path):
    """It goes on from its last step, and tokens of before are made anew; others' logging may
    change.
    """
    llm = next(f for f in synthetic_config.fill(tmp_path) if f.startswith("--config.llm="))
    config = synthetic_config.get_config()
    config.llm, config.jobs = llm.partition("=")[2], ("train", "tokenize")
    config.train.steps, config.train.disc_start = 2, 100
    config.train.eval_every = config.train.checkpoint_every = 2
    runner.run_jobs(config, tmp_path)
    assert train.is_done(config, tmp_path) and tokenize.is_done(config, tmp_path)
    before = (tmp_path / "tokens" / "train.npz").stat().st_mtime_ns
    (tmp_path / "tokens" / "training.json").unlink()  # as folders of earlier versions are

    config.train.steps, config.train.log_every = 4, 3
    assert not train.is_done(config, tmp_path)
    runner.run_jobs(config, tmp_path)
    assert read_json(tmp_path / "training.json", {})["steps"] == 4
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == sorted(steps) and max(steps) == 4
    assert train.is_done(config, tmp_path) and tokenize.is_done(config, tmp_path)
    made = read_json(tmp_path / "tokens" / "training.json", {})
    assert made == read_json(tmp_path / "training.json", {})
    assert [entry["job"] for entry in environments(tmp_path)] == ["train", "tokenize"] * 2
    assert (tmp_path / "tokens" / "train.npz").stat().st_mtime_ns != before

    config.train.steps = 3
    with pytest.raises(ConfigError, match=r"differs at train.steps"):
        runner.run_jobs(config, tmp_path)
