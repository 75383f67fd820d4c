"""EfficientNet-Lite: sizes, parity with torch operations, and what it sees in a real photo."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.data.transforms import EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD, clip_preprocess
from v2l_jax.errors import CheckpointError
from v2l_jax.towers import efficientnet

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "efficientnet_lite2_cat.json"


@pytest.mark.parametrize(
    (
        "variant",
        "published",
    ),  # parameters with batch norm's scale and shift, as publications count them
    [
        ("lite0", 4_652_008),
        ("lite1", 5_416_680),
        ("lite2", 6_092_072),
        ("lite3", 8_197_096),
        ("lite4", 13_006_568),
    ],
)
def test_parameter_count_is_the_published_one(variant, published):
    width, depth, size = efficientnet.VARIANTS[variant]
    model = efficientnet.EfficientNet(width, depth)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    sizes = jax.tree_util.tree_map_with_path(
        # folding merged a norm's scale and shift into one bias; the classifier has no norm
        lambda path, leaf: (
            leaf.size * (2 if path[-1].key == "bias" and path[0].key != "classifier" else 1)
        ),
        params,
    )
    assert sum(jax.tree.leaves(sizes)) == published


def _random_checkpoint(rng, blocks):
    """Random tensors for a checkpoint with these blocks, batch norms far from identity."""
    tensors = {}

    def conv_and_norm(conv, norm, shape):
        tensors[f"{conv}.weight"] = rng.standard_normal(shape) * np.prod(shape[1:]) ** -0.5
        tensors[f"{norm}.weight"] = 1 + 0.2 * rng.standard_normal(shape[0])
        tensors[f"{norm}.bias"] = 0.3 * rng.standard_normal(shape[0])
        tensors[f"{norm}.running_mean"] = 0.3 * rng.standard_normal(shape[0])
        tensors[f"{norm}.running_var"] = rng.uniform(0.3, 1.0, shape[0])

    channels = 32
    conv_and_norm("_conv_stem", "_bn0", (32, 3, 3, 3))
    for i, (kernel, _, expansion, out) in enumerate(blocks):
        wide = channels * expansion
        if expansion != 1:
            conv_and_norm(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", (wide, channels, 1, 1))
        conv_and_norm(
            f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", (wide, 1, kernel, kernel)
        )
        conv_and_norm(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", (out, wide, 1, 1))
        channels = out
    conv_and_norm("_conv_head", "_bn1", (1280, channels, 1, 1))
    tensors["_fc.weight"] = rng.standard_normal((7, 1280)) * 0.05
    tensors["_fc.bias"] = rng.standard_normal(7)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def _torch_logits(torch, tensors, blocks, images):
    """The network as published: TensorFlow "SAME" padding, batch norm unfolded, ReLU6, NCHW."""
    F = torch.nn.functional
    t = {name: torch.tensor(value) for name, value in tensors.items()}

    def conv(x, conv, norm, stride=1, groups=1, relu=True):
        kernel = t[f"{conv}.weight"].shape[-1]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), t[f"{conv}.weight"], stride=stride, groups=groups)
        stats = (t[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *stats, eps=1e-3)
        return F.relu6(x) if relu else x

    x = conv(torch.tensor(images).permute(0, 3, 1, 2), "_conv_stem", "_bn0", 2)
    for i, (_, stride, expansion, out) in enumerate(blocks):
        at = f"_blocks.{i}."
        y = conv(x, at + "_expand_conv", at + "_bn0") if expansion != 1 else x
        y = conv(y, at + "_depthwise_conv", at + "_bn1", stride, groups=y.shape[1])
        y = conv(y, at + "_project_conv", at + "_bn2", relu=False)
        x = x + y if stride == 1 and x.shape[1] == out else y
    x = conv(x, "_conv_head", "_bn1").mean((2, 3))
    return F.linear(x, t["_fc.weight"], t["_fc.bias"]).numpy()


@pytest.mark.parametrize("shape", [(64, 64), (65, 50)])
def test_random_lite0_matches_torch(torch, monkeypatch, shape):
    blocks = efficientnet.block_table(1.0, 1.0)
    tensors = _random_checkpoint(np.random.default_rng(0), blocks)
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: tensors)
    model, params, size = efficientnet.load_efficientnet("lite0.pth")
    assert (model.num_classes, size) == (7, 224)
    images = np.random.default_rng(1).uniform(-1, 1, (2, *shape, 3)).astype(np.float32)
    expected = _torch_logits(torch, tensors, blocks, images)
    result = jax.jit(model.apply)({"params": params}, images)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [(3, 1, 7), (3, 2, 8), (3, 2, 9), (5, 2, 10), (5, 2, 11), (5, 1, 4)],
)
def test_depthwise_equals_xla_grouped_convolution(kernel, stride, side):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, side, side + 1, 6)), jnp.float32)
    layer = efficientnet.DepthwiseConv(kernel, stride)
    params = {
        "kernel": jnp.asarray(rng.standard_normal((kernel, kernel, 6)), jnp.float32),
        "bias": jnp.arange(6.0),
    }
    expected = jax.lax.conv_general_dilated(
        x,
        params["kernel"][:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(
        layer.apply({"params": params}, x), np.clip(expected + params["bias"], 0, 6), atol=1e-5
    )


@pytest.fixture(scope="module")
def cat_logits(asset):
    """Lite2's 1000 logits for scikit-image's cat."""
    data = pytest.importorskip("skimage.data")
    model, params, size = efficientnet.load_efficientnet(asset("efficientnet-lite2"))
    assert size == 260
    image = clip_preprocess(data.chelsea(), size, EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD)
    return np.asarray(jax.jit(model.apply)({"params": params}, image[None]))[0]


def test_lite2_sees_a_cat(cat_logits, asset):
    synset = asset("imagenet-synsets").read_text().split()[cat_logits.argmax()]
    cats = {"n02123045", "n02123159", "n02123394", "n02123597", "n02124075"}  # tabby … Egyptian cat
    assert synset in cats


def test_lite2_matches_the_published_torch_code(cat_logits):
    golden = json.loads(GOLDEN.read_text())
    assert np.argsort(-cat_logits)[:5].tolist() == golden["top5_classes"]
    np.testing.assert_allclose(cat_logits[golden["top5_classes"]], golden["top5_logits"], atol=1e-3)
    np.testing.assert_allclose(cat_logits[:: golden["every"]], golden["every_logits"], atol=1e-3)


def test_other_checkpoints_are_refused(monkeypatch):
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: {"features.0.weight": np.zeros(3)})
    with pytest.raises(CheckpointError, match="not an EfficientNet-Lite checkpoint"):
        efficientnet.load_efficientnet("vgg.pth")
    odd = _random_checkpoint(np.random.default_rng(0), efficientnet.block_table(1.0, 1.0)[:3])
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: odd)
    with pytest.raises(
        CheckpointError, match="no EfficientNet-Lite has 3 blocks and 24 final channels"
    ):
        efficientnet.load_efficientnet("odd.pth")


def test_networks_that_have_more_are_not_taken_for_a_lite(monkeypatch):
    """EfficientNet-B0 has Lite0's sizes and names, and gates (squeeze-and-excitation) besides."""
    blocks = efficientnet.block_table(1.0, 1.0)
    lite = _random_checkpoint(np.random.default_rng(0), blocks)
    counters = {"_bn0.num_batches_tracked": np.asarray(3)}
    gates = {"_blocks.0._se_reduce.weight": np.zeros((8, 32, 1, 1), np.float32)}
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: lite | counters)
    assert efficientnet.load_efficientnet("lite0.pth")[2] == 224
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: lite | counters | gates)
    with pytest.raises(CheckpointError, match="1 of .* belong to nothing.*_se_reduce"):
        efficientnet.load_efficientnet("b0.pth")
    quantised = lite | {"_fc.weight": np.zeros((7, 1280), np.int8)}
    monkeypatch.setattr(efficientnet, "read_torch", lambda path: quantised)
    with pytest.raises(CheckpointError, match="quantised"):
        efficientnet.load_efficientnet("int8.pth")
