"""Vision transformers: parity with transformers' torch models, the real DINOv2-S, and what is
refused.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_onnx import dinov2
from tests.tiny_vit import write_dinov2
from v2l_jax.assets import fetch
from v2l_jax.assets.registry import ASSETS
from v2l_jax.errors import CheckpointError, ConfigError, DataError
from v2l_jax.towers import vit_weights
from v2l_jax.towers.position_interpolation import resize_grid
from v2l_jax.towers.vit import load_vit

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
FAMILY = {
    "ViT": ("ViT", {"intermediate_size": 48}),
    "DeiT": ("DeiT", {"intermediate_size": 48}),
    "DINOv2": ("Dinov2", {"mlp_ratio": 2}),
    "DINOv2, SwiGLU": ("Dinov2", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "registers": ("Dinov2WithRegisters", {"mlp_ratio": 2, "num_register_tokens": 3}),
    "CLIP": ("CLIPVision", {"intermediate_size": 48}),
    "SigLIP": ("SiglipVision", {"intermediate_size": 48}),
}


def _random_model(torch, name):
    import transformers

    kind, more = FAMILY[name]
    config = getattr(transformers, f"{kind}Config")(**SIZES, num_hidden_layers=2, **more)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim < 2 else 0.15))
    return model


@pytest.mark.parity
@pytest.mark.parametrize("name", FAMILY)
def test_features_match_transformers(torch, tmp_path, name):
    """One block before the last on the trained grid; the last, normalised, on another one."""
    model = _random_model(torch, name)
    model.save_pretrained(tmp_path)
    tower = load_vit(tmp_path)
    whole = name != "CLIP"  # whose last norm transformers applies to the class token alone
    for size, layer, norm in (((56, 56), -2, False), ((42, 84), -1, whole)):
        images = np.random.RandomState(0).randn(2, *size, 3).astype(np.float32)
        flexible = {} if "DINO" in name or name == "registers" else {"interpolate_pos_encoding": 1}
        with torch.no_grad():
            chw = torch.tensor(images.transpose(0, 3, 1, 2))
            out = model(chw, output_hidden_states=True, **flexible)
        encode = jax.jit(lambda p, x: tower.features(p, x, layer, norm))
        classes, patches = encode(tower.params, jnp.asarray(images))
        assert patches.shape[1:3] == (size[0] // 14, size[1] // 14)
        expected = (out.last_hidden_state if norm else out.hidden_states[layer]).numpy()
        rows = np.asarray(patches).reshape(2, -1, 32)
        np.testing.assert_allclose(rows, expected[:, -rows.shape[1] :], atol=1e-4)
        np.testing.assert_allclose(classes, expected[:, : classes.shape[1]], atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("antialias", [False, True])
def test_positions_are_resampled_as_torch_does(torch, antialias):
    square = np.random.RandomState(1).randn(49, 5).astype(np.float32)
    for grid in ((7, 7), (3, 16), (16, 5), (14, 14)):
        chw = torch.tensor(square.reshape(1, 7, 7, 5).transpose(0, 3, 1, 2))
        expected = torch.nn.functional.interpolate(
            chw, size=grid, mode="bicubic", antialias=antialias
        )
        expected = expected.numpy()[0].transpose(1, 2, 0).reshape(-1, 5)
        np.testing.assert_allclose(resize_grid(square, grid, antialias), expected, atol=1e-5)


@pytest.mark.parity
def test_the_real_dinov2_matches_transformers(torch):
    """On the weights of the asset, where it has been fetched."""
    import transformers

    home = fetch._home(ASSETS["dinov2-s"], fetch.cache_directory())
    if not home.is_dir():
        pytest.skip("dinov2-s is not in the cache")
    path = fetch.fetch("dinov2-s")
    tower = load_vit(path)
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
        )
    ).eval()
    model.load_state_dict(_transformers_names(torch, path, model), strict=False)
    images = np.random.RandomState(0).rand(1, 112, 112, 3).astype(np.float32)
    with torch.no_grad():
        chw = torch.tensor(images.transpose(0, 3, 1, 2))
        out = model(chw, output_hidden_states=True)
    encode = jax.jit(lambda p, x: tower.features(p, x, 9, False))
    _, patches = encode(tower.params, jnp.asarray(images))
    expected = out.hidden_states[9].numpy()[:, 1:]
    np.testing.assert_allclose(np.asarray(patches).reshape(1, -1, 384), expected, atol=1e-4)


def _transformers_names(torch, path, model):
    """The file's tensors by today's module names; every module but the mask token gets one."""
    state = {}
    for name, tensor in vit_weights._onnx_tensors(path).items():
        name = name.removeprefix("backbone.").replace("attention.output.dense", "attention.o_proj")
        name = re.sub(
            r"attention\.attention\.(query|key|value)", lambda m: f"attention.{m[1][0]}_proj", name
        )
        state[name] = torch.tensor(np.array(tensor))
    state["embeddings.position_embeddings"] = state["embeddings.position_embeddings"][None]
    assert model.state_dict().keys() - state.keys() == {"embeddings.mask_token"}
    return state


def test_a_block_written_out(tmp_path):
    """One block in numpy loops: patches, positions, attention, MLP."""
    w = write_dinov2(tmp_path)
    tower = load_vit(tmp_path)
    image = np.random.RandomState(1).randn(4, 4, 3).astype(np.float32)
    tokens = [w["embeddings.cls_token"][0, 0]]
    kernel = w["embeddings.patch_embeddings.projection.weight"]
    for i in range(2):
        for j in range(2):
            patch = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].transpose(2, 0, 1)
            tokens.append(
                np.tensordot(kernel, patch, 3) + w["embeddings.patch_embeddings.projection.bias"]
            )
    x = np.stack(tokens) + w["embeddings.position_embeddings"][0]
    linear = lambda name, y: y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, y):
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    normed, block = norm("encoder.layer.0.norm1", x), "encoder.layer.0."
    q, k, v = (linear(f"{block}attention.attention.{n}", normed) for n in ("query", "key", "value"))
    heads = []
    for h in (slice(0, 2), slice(2, 4)):
        scores = np.exp(q[:, h] @ k[:, h].T / 2**0.5)
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, h])
    x = x + linear(f"{block}attention.output.dense", np.concatenate(heads, 1))
    inner = linear(f"{block}mlp.fc1", norm(f"{block}norm2", x))
    inner = np.asarray(jax.scipy.stats.norm.cdf(inner)) * inner
    x = x + linear(f"{block}mlp.fc2", inner)
    both = jax.jit(lambda p, x: [tower.features(p, x, n, norm=n < 0) for n in (1, -1)])
    (classes, patches), (_, normed) = both(tower.params, jnp.asarray(image)[None])
    np.testing.assert_allclose(classes[0], x[:1], atol=1e-4)
    np.testing.assert_allclose(np.asarray(patches).reshape(4, 4), x[1:], atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(normed).reshape(4, 4), norm("layernorm", x)[1:], atol=1e-4
    )


def test_layers_and_sizes_that_are_not_there(tmp_path):
    write_dinov2(tmp_path)
    tower = load_vit(tmp_path)
    assert [tower.layer_number(n) for n in (0, 1, -1, -2)] == [0, 1, 1, 0]
    with pytest.raises(ConfigError, match="a layer is -2 to 1, not 2"):
        tower.layer_number(2)
    for side in (1, 3):
        with pytest.raises(DataError, match="not whole patches"):
            tower.features(tower.params, jnp.zeros((1, side, side, 3)), -1, True)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"model_type": "swin"}, "'swin' model"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"tensors": {"embeddings.cls_tokens": np.zeros((1, 1, 4), np.float32)}}, "cls_tokens"),
        ({"tensors": {"layernorm.weight": None}}, "no tensor 'norm_post.weight'"),
    ],
)
def test_other_models_are_refused_in_a_line(tmp_path, changes, why):
    write_dinov2(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=why):
        load_vit(tmp_path)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match="no config.json"):
        load_vit(tmp_path)


@pytest.mark.parametrize(
    "processor, why",
    [
        ({"do_normalize": False}, "do_normalize=false is not supported"),
        ({"do_rescale": False}, "do_rescale=false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078"),
        ({"image_mean": 0.5}, "image_mean is 0.5, but must be three numbers"),
        ({"image_std": [0.5, 0.5, float("nan")]}, "image_std"),
    ],
)
def test_preprocessing_that_the_tower_does_not_do_is_refused(tmp_path, processor, why):
    write_dinov2(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(CheckpointError, match=why):
        load_vit(tmp_path)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"num_attention_heads": 3}, "cannot have 3 heads"),
        ({"num_attention_heads": "2"}, "must be of type int"),
        ({"layer_norm_eps": float("inf")}, "finite"),
        ({"tensors": {"embeddings.position_embeddings": np.zeros((1, 4, 4), "f4")}}, "no square"),
        ({"tensors": {"encoder.layer.0.mlp.fc1.bias": np.zeros(3, "f4")}}, "mlp_in.bias has shape"),
        ({"tensors": {"encoder.layer.0.mlp.fc1.weight": np.zeros((8, 4), "i1")}}, "quantised"),
    ],
)
def test_settings_and_tensors_that_do_not_fit_are_one_line(tmp_path, changes, why):
    write_dinov2(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=why):
        load_vit(tmp_path)


def test_an_onnx_export_is_the_same_tower(tmp_path):
    made = write_dinov2(tmp_path)
    (tmp_path / "m.onnx").write_bytes(dinov2(made))
    theirs = vit_weights.read_vit(tmp_path)
    ours = vit_weights.read_vit(tmp_path / "m.onnx")
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    (tmp_path / "m.onnx").write_bytes(dinov2({k: x for k, x in made.items() if "norm2" not in k}))
    with pytest.raises(CheckpointError, match="no tensor '0:norm_2.weight'"):
        vit_weights.read_vit(tmp_path / "m.onnx")
