"""VQ-GAN against the published code (CompVis/taming-transformers), and in a run of the trainer."""

import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import synthetic_config
from tests.tokenizers import short_training
from v2l_jax.errors import CheckpointError
from v2l_jax.jobs import evaluate, release, tokenize, train
from v2l_jax.metrics.results import read_results
from v2l_jax.run import building
from v2l_jax.run.tokens import read_tokens
from v2l_jax.tasks import reconstruction
from v2l_jax.tokenizers.quantizers.codebook import PlainCodebook
from v2l_jax.tokenizers.reference import discriminator_from_reference, read_reference
from v2l_jax.tokenizers.vqgan import VQGAN, load_taming, vqgan_from_taming
from v2l_jax.towers.vgg import lpips
from v2l_jax.training.adversarial_loss import AdversarialLoss
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.state import TrainState

_FOLDER = pathlib.Path(__file__).parents[1] / "golden"
_CHECKPOINT = _FOLDER / "vqgan_taming_small.ckpt"


@pytest.fixture(scope="module")
def golden(lpips_params):
    """The published run's numbers, the tokenizer read from its checkpoint, and one pass of it with
    the GAN on.
    """
    with np.load(_FOLDER / "vqgan_taming_small.npz") as archive:
        expected = dict(archive)
    tokenizer, variables = load_taming(_CHECKPOINT)
    variables = jax.tree.map(jnp.asarray, variables)
    arrays = {name.removeprefix("loss."): x for name, x in read_reference(_CHECKPOINT).items()}
    discriminator, disc_variables = discriminator_from_reference(arrays)
    tx = optax.sgd(0.0)
    state = TrainState.create(variables, disc_variables, tx, tx, jax.random.PRNGKey(0))
    weights = LossWeights(perceptual=1.0, adversarial=0.8, disc_start=0)
    loss = AdversarialLoss(tokenizer, discriminator, lpips, weights)
    batch = {"image": jnp.asarray(expected["image_nchw"].transpose(0, 2, 3, 1))}
    frozen = {"model": {}, "lpips": lpips_params}
    grads, _, tokens, metrics = jax.jit(loss.tokenizer_gradients)(
        state.replace(step=jnp.int32(1)), batch, frozen
    )
    return types.SimpleNamespace(
        expected=expected,
        tokenizer=tokenizer,
        variables=variables,
        batch=batch,
        grads=grads,
        tokens=tokens,
        metrics=metrics,
    )


def test_tokens_and_images_are_the_published_ones(golden):
    expected, nhwc = golden.expected, lambda x: x.transpose(0, 2, 3, 1)
    ids = np.asarray(golden.tokens["local"])
    np.testing.assert_array_equal(ids.ravel(), expected["indices"])
    features = golden.tokenizer.network.apply(
        golden.variables, golden.batch["image"], method="features"
    )
    np.testing.assert_allclose(features, nhwc(expected["quant_conv_out"]), atol=1e-4)
    decoded = jax.jit(golden.tokenizer.decode)(golden.variables, golden.tokens)
    np.testing.assert_allclose(decoded, nhwc(expected["recon_from_indices"]), atol=1e-4)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("reconstruction_loss", "l1_loss"),
        ("perceptual_loss", "perceptual_loss"),
        ("quantizer_loss", "quant_loss"),
        ("generator_loss", "generator_loss"),
        ("adaptive_weight", "adaptive_weight_times_disc_weight"),
        ("loss", "total_loss"),
    ],
)
def test_losses_are_the_published_ones(golden, metric, name):
    np.testing.assert_allclose(golden.metrics[metric], golden.expected[name], rtol=1e-4)


def test_gradients_are_the_published_ones(golden):
    """Whole arrays: the codebook, which entries that no token chose do not move, and both ends."""
    expected, grads = golden.expected, golden.grads
    np.testing.assert_allclose(
        grads["codebook"], expected["grad.quantize.embedding.weight"], rtol=1e-3, atol=1e-8
    )
    convolution = lambda name: expected[f"grad.{name}.weight"].transpose(2, 3, 1, 0)
    found = grads["encoder"]["conv_in"]["kernel"]
    wanted = convolution("encoder.conv_in")
    np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-3 * np.abs(wanted).max())
    wanted = convolution("decoder.conv_out")
    found = grads["conv_out"]["kernel"]
    np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-3 * np.abs(wanted).max())


def test_a_checkpoint_of_other_sizes_is_refused(golden, tmp_path):
    with pytest.raises(CheckpointError, match="codebook"):
        VQGAN(golden.tokenizer.network, PlainCodebook(255, 32)).pretrained(str(_CHECKPOINT), {})


@pytest.mark.parametrize("prefix", ["", "model.vqmodel."])
def test_chameleons_layout_is_read(prefix):
    """No attention on the way down and up, and names that begin with the model that owns it."""
    arrays = read_reference(_CHECKPOINT)
    kept = {prefix + key: x for key, x in arrays.items() if not re.search(r"(down|up).*attn", key)}
    tokenizer, variables = vqgan_from_taming(kept)
    assert tokenizer.network.attn_resolutions == () and tokenizer.quantizer.entries == 256
    middle = variables["params"]["decoder"]["middle"]["attention"]["query"]["kernel"]
    wanted = np.asarray(arrays["decoder.mid.attn_1.q.weight"])[:, :, 0, 0].T
    np.testing.assert_array_equal(middle, wanted)
    picture = jax.jit(tokenizer.decode)(variables, {"local": jnp.zeros((1, 4, 4), jnp.int32)})
    assert picture.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays | {"quantize.proj.weight": np.zeros(2)}, "quantize.proj.weight"),
        (lambda arrays: _without(arrays, "decoder."), "no tensor 'decoder.conv_in.weight'"),
        (lambda arrays: _without(arrays, "quantize."), "no tensor 'quantize.embedding.weight'"),
        (lambda arrays: _without(arrays, "post_quant_conv."), "from_codes"),
    ],
)
def test_what_is_missing_or_unknown_is_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        vqgan_from_taming(change(read_reference(_CHECKPOINT)))


def _without(arrays, start):
    return {key: x for key, x in arrays.items() if not key.startswith(start)}


def test_it_trains_and_is_scored_without_word_codebooks(tmp_path):
    config = synthetic_config.get_config()
    config.model.kind = "vqgan"
    config.model.vqgan.update(entries=40, entry_dim=16)
    config.train.update(steps=4, learning_rate=1e-3, eval_every=2, disc_start=1)
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    for folder in ("codebook", "features"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    train.run(config, tmp_path)
    tokenize.run(config, tmp_path)
    tokens = read_tokens(tmp_path, "held_out")
    assert list(tokens) == ["local"] and tokens["local"].shape == (48, 16, 16)
    run = evaluate.open_run(config, tmp_path)
    reconstruction.measure(run, reconstruction.settings(config))
    rows = {row.metric: row for row in read_results(tmp_path / "results.json")}
    assert rows["codebook_usage"].measured_on["words"] == 40
    assert rows["psnr"].measured_on["local_tokens"] == 256 and rows["psnr"].value > 5


def test_another_quantizer_trains_in_its_place(tmp_path):
    """Several ids a position, kept, decoded and counted."""
    config = synthetic_config.get_config()
    config.model.kind, config.model.vqgan.quantizer = "vqgan", "multi_codebook"
    config.model.quantizers.multi_codebook.update(parts=2, rows=16, width=4)
    tokenizer = building.tokenizer(config, {})
    images = np.random.RandomState(0).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    rows, variables = short_training.train(tokenizer, {}, {"image": images}, 8)
    assert rows[-1]["quantizer_loss"] < rows[0]["quantizer_loss"]
    image, tokens = jax.jit(tokenizer.reconstruct)(variables, {"image": images})
    assert tokens["local"].shape == (4, 16, 16, 2) and image.shape == images.shape
    assert release.bits_a_picture(tokenizer, variables, 16) == 2 * 256 * 4
