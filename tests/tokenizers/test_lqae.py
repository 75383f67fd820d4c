"""LQAE against numbers of the published code (tests/golden/lqae_small.npz), and its checkpoint
read without executing it.
"""

import os
import pathlib
import types

import cloudpickle
import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from tests import synthetic_config
from tests.tokenizers.short_training import train
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.run import building
from v2l_jax.tokenizers import lqae
from v2l_jax.tokenizers.lqae_files import _path_of, load_lqae, lqae_from_arrays
from v2l_jax.training.optimizer import make_optimizer

_FILE = pathlib.Path(__file__).parents[1] / "golden" / "lqae_small.npz"
_HEADS = {"heads": 2, "model_heads": 2}


def _as_published(pixels):
    """The golden images lie in normalized pixel space."""
    return jnp.asarray(lqae.denormalized(jnp.asarray(pixels)))


def _gradients(tokenizer, variables, batch, mask):
    def total(params):
        out = tokenizer.forward(variables | {"params": params}, batch, mask)
        weights = tokenizer.loss_weights
        return sum(weight * out.losses[name] for name, weight in weights.items()), out

    return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])


@pytest.fixture(scope="module")
def golden():
    with np.load(_FILE) as archive:
        expected = dict(archive)
    arrays = {k.removeprefix("params/"): x for k, x in expected.items() if k.startswith("params/")}
    tokenizer, variables = lqae_from_arrays(arrays, expected["codebook"], 119, **_HEADS)
    variables = jax.tree.map(jnp.asarray, variables)
    batch = {"image": _as_published(expected["image_nhwc"])}
    mask = jnp.asarray(expected["train/mask"])
    (loss, out), grads = _gradients(tokenizer, variables, batch, mask)
    return types.SimpleNamespace(
        expected=expected,
        arrays=arrays,
        tokenizer=tokenizer,
        variables=variables,
        batch=batch,
        mask=mask,
        loss=loss,
        out=out,
        grads=grads,
    )


def test_training_pass(golden):
    expected, out = golden.expected, golden.out
    np.testing.assert_array_equal(out.tokens["local"], expected["train/ids"])
    recon = lqae.normalized(out.image)
    np.testing.assert_allclose(recon, expected["train/recon"], atol=2e-5)
    for ours, theirs in (
        ("squared_error", "recon_loss"),
        ("quantizer_loss", "quantizer_loss"),
        ("masked_loss", "bert_loss_unweighted"),
    ):
        np.testing.assert_allclose(out.losses[ours], expected[f"train/{theirs}"], rtol=1e-5)
    np.testing.assert_allclose(golden.loss, expected["train/total_loss"], rtol=1e-5)


def test_evaluation_reads_all_tokens(golden):
    decode = jax.jit(golden.tokenizer.reconstruct)
    image, tokens = decode(golden.variables, golden.batch)
    np.testing.assert_array_equal(tokens["local"], golden.expected["eval/ids"])
    np.testing.assert_allclose(lqae.normalized(image), golden.expected["eval/recon"], atol=2e-5)


@pytest.mark.parametrize("variant", ["train", "ste"])
def test_gradients_of_both_straight_through_variants(golden, variant):
    grads, expected = golden.grads, golden.expected
    if variant == "ste":
        ste = lqae_from_arrays(golden.arrays, expected["codebook"], 119, ste=True, **_HEADS)[0]
        (loss, out), grads = _gradients(ste, golden.variables, golden.batch, golden.mask)
        np.testing.assert_allclose(loss, expected["ste/total_loss"], rtol=1e-5)
        recon = lqae.normalized(out.image)
        np.testing.assert_allclose(recon, expected["ste/recon"], atol=2e-5)
    flat = flax.traverse_util.flatten_dict(grads)
    names, norms = expected["train/grad_names"], expected[f"{variant}/grad_norms"]
    compared = 0
    for name, norm in zip(names, norms):
        if not name.startswith("lang_model") and norm > 1e-6:
            found = np.linalg.norm(np.asarray(flat[_path_of(str(name))], float))
            np.testing.assert_allclose(found, norm, rtol=2e-4, err_msg=str(name))
            compared += 1
    assert compared > 50
    if variant == "train":
        for name in [key for key in expected if key.startswith("train/grad/")]:
            found = flat[_path_of(name.removeprefix("train/grad/"))]
            np.testing.assert_allclose(found, expected[name], atol=1e-6)


def test_three_steps_of_adamw(golden):
    tx, params = make_optimizer(lambda step: jnp.float32(3e-4), "adamw"), golden.variables["params"]
    state, rows, grads = tx.init(params), [], golden.grads
    losses = lambda loss, out: [
        loss, out.losses["squared_error"], out.losses["quantizer_loss"],
        1e-4 * out.losses["masked_loss"],
    ]  # fmt: skip
    rows.append(losses(golden.loss, golden.out))
    for number in range(3):
        updates, state = tx.update(grads, state, params, step=jnp.int32(number))
        params = optax.apply_updates(params, updates)
        now = golden.variables | {"params": params}
        (loss, out), grads = _gradients(golden.tokenizer, now, golden.batch, golden.mask)
        rows.append(losses(loss, out))
    wanted = golden.expected["trajectory_total_recon_quantizer_bert"]
    np.testing.assert_allclose(np.asarray(rows, float), wanted, rtol=2e-4)
    np.testing.assert_array_equal(out.tokens["local"], golden.expected["after/ids"])
    recon = lqae.normalized(out.image)
    np.testing.assert_allclose(recon, golden.expected["after/recon"], atol=3e-4)


class _Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/lqae-was-executed",)


def _nested(arrays):
    return flax.traverse_util.unflatten_dict({tuple(k.split("/")): x for k, x in arrays.items()})


def test_a_cloudpickle_is_read_and_nothing_in_it_is_run(golden, tmp_path):
    """As the published code writes it: a TrainState with functions, an optimizer, a config."""
    params = flax.core.freeze({"params": _nested(golden.arrays)})
    tx = optax.adamw(lambda step: 1e-3 * step)
    state = TrainState.create(apply_fn=lambda x: x + 1, params=params, tx=tx)
    config = ml_collections.ConfigDict({"vit": {"layers": 2}})
    tree = {"step": 3, "epoch": 1, "variant": config, "state": state, "evil": _Evil()}
    path = tmp_path / "model.pkl"
    path.write_bytes(cloudpickle.dumps(tree))
    tokenizer, variables = load_lqae(path, golden.expected["codebook"], 119, **_HEADS)
    assert not pathlib.Path("/tmp/lqae-was-executed").exists()
    assert tokenizer == golden.tokenizer
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), variables, golden.variables)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree | {"state": 1}, "has no state.params"),
        (lambda tree: {"state": {"params": {"params": {"w": _Evil()}}}}, "refused: (posix|os).sys"),
        (
            lambda tree: {"state": {"params": {"params": {"encoder": {"x": np.zeros(2)}}}}},
            "no array encoder/x",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(golden, tmp_path, change, message):
    path = tmp_path / "model.pkl"
    path.write_bytes(cloudpickle.dumps(change({"state": {}})))
    with pytest.raises(CheckpointError, match=message):
        load_lqae(path, golden.expected["codebook"], 119, **_HEADS)


def test_the_embedded_bert_stands_in_and_words_alone_do(asset, tmp_path):
    """MiniLM's BERT has no head, so no masked loss; without a language model, the run's words."""
    config = synthetic_config.get_config()
    config.model.kind = "lqae"
    config.model.lqae.update(patch=4, layers=1, heads=2, inner=16, language_model="minilm-l6-v2")
    words = {"local": np.random.RandomState(0).randn(50, 6).astype("f")}
    tokenizer = building.tokenizer(config, words)
    assert tokenizer.codebooks == {"local": 30_522} and tokenizer.model.mask_id == 103
    assert list(tokenizer.loss_weights) == ["squared_error", "quantizer_loss"]
    config.model.lqae.update(language_model="")
    tokenizer = building.tokenizer(config, words)
    batch = {"image": np.random.RandomState(1).uniform(-1, 1, (4, 16, 16, 3)).astype("f")}
    rows, variables = train(tokenizer, tokenizer.frozen(words), batch, 10, learning_rate=2e-2)
    assert rows[-1]["squared_error"] < 0.9 * rows[0]["squared_error"]
    image, tokens = jax.jit(tokenizer.reconstruct)(variables, jax.tree.map(jnp.asarray, batch))
    assert tokens["local"].shape == (4, 4, 4) and image.shape == (4, 16, 16, 3)
    config.model.lqae.heads = 5
    with pytest.raises(ConfigError, match="heads is 5, but must divide 6"):
        building.tokenizer(config, words)
