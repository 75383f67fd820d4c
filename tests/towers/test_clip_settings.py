"""What lies beside CLIP weights is read: mean and standard deviation, heads, activation; what
nothing says is an option, and is noted as assumed.
"""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from v2l_jax.errors import CheckpointError
from v2l_jax.sections import TowerOptions
from v2l_jax.towers import clip, clip_weights
from v2l_jax.towers.clip_settings import changed, read_settings, settings_beside

HALF = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def _tensors(width=64, layers=1):
    """A random CLIP of 16-pixel images in OpenAI's names."""
    random = np.random.default_rng(0)

    def block(prefix):
        shapes = {f"ln_{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")}
        shapes |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
        shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
        shapes |= {"mlp.c_fc.weight": (16, width), "mlp.c_fc.bias": (16,)}
        shapes |= {"mlp.c_proj.weight": (width, 16), "mlp.c_proj.bias": (width,)}
        return {f"{prefix}transformer.resblocks.0.{name}": s for name, s in shapes.items()}

    shapes = block("visual.") | block("") | {"logit_scale": ()}
    shapes |= {"visual.conv1.weight": (width, 3, 8, 8), "visual.class_embedding": (width,)}
    shapes |= {"visual.positional_embedding": (5, width), "visual.proj": (width, 8)}
    shapes |= {f"visual.ln_{e}.{x}": (width,) for e in ("pre", "post") for x in ("weight", "bias")}
    shapes |= {"token_embedding.weight": (60, width), "positional_embedding": (8, width)}
    shapes |= {
        "text_projection": (width, 8),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    return {n: np.asarray(random.normal(size=s), np.float32) for n, s in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    """A file in OpenAI's names with a tokenizer beside it, and nothing that describes it."""
    save_file(_tensors(), tmp_path / "weights.safetensors")
    pieces = [*"cat", *(f"{c}</w>" for c in "cat"), "ca", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\n")
    return tmp_path


def _write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def _hugging_face(folder, **processor):
    _write(folder, "config.json", {"model_type": "clip"})
    _write(folder, "preprocessor_config.json", processor)
    return settings_beside(folder)


@pytest.mark.parametrize(
    "processor",
    [
        HALF | {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
        HALF | {"size": 20, "crop_size": 16, "resample": 2},
        {"size": {"shortest_edge": 16}, "crop_size": 16},
    ],
)
def test_images_are_prepared_as_the_processor_beside_the_weights_does(processor, tmp_path):
    import transformers

    settings = _hugging_face(tmp_path, **processor)
    assert settings.assumed == ()
    theirs = transformers.CLIPImageProcessorPil(**processor)(Image.fromarray(IMAGE))
    pre = settings.preprocessing
    ours = clip.clip_preprocess(
        IMAGE, 16, pre.mean, pre.std, pre.resample, pre.short_side, pre.squash
    )
    expected = np.asarray(theirs["pixel_values"][0]).transpose(1, 2, 0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("stated, mean", [(HALF, 0.5), ({}, 0.48145466)])
def test_the_tower_uses_the_mean_beside_its_weights(stated, mean, folder):
    if stated:
        _write(folder, "preprocessor_config.json", stated)
    vision = {"num_attention_heads": 2, "hidden_act": "gelu"}
    _write(folder, "config.json", {"model_type": "clip", "vision_config": vision})
    tower = clip.load_clip(folder / "weights.safetensors")
    std = 0.25 if stated else 0.26862954
    black = tower.preprocess(np.zeros((16, 16, 3), np.uint8))
    np.testing.assert_allclose(black[0, 0, 0], -mean / std, rtol=1e-5)
    assert any("mean" in sentence for sentence in tower.assumed) == (not stated)


def test_what_a_bare_file_does_not_say_is_assumed_and_noted(folder):
    tower = clip.load_clip(folder / "weights.safetensors")
    assert [sentence.split()[0] for sentence in tower.assumed] == [
        "activation",
        "heads",
        "OpenAI's",
    ]


def test_options_state_what_the_files_do_not(folder):
    options = TowerOptions(
        activation="gelu", heads=(4, 2), image_mean=(0.5,) * 3, image_std=(0.25,) * 3
    )
    path = str(folder / "weights.safetensors")
    tower = clip.open_tower(path, options, clip.pathlib.Path, np.float32)
    assert tower.assumed == ()
    assert tower.preprocess(np.zeros((16, 16, 3), np.uint8))[0, 0, 0] == -2
    tensors, settings = clip_weights.open_clip(folder / "weights.safetensors")
    image, _, text, _ = clip_weights.both_sides(
        path, tensors, changed(settings, "gelu", options.heads)
    )
    assert (image.transformer.heads, text.transformer.heads) == (4, 2)
    assert image.transformer.activation == text.transformer.activation == "gelu"


OPENCLIP = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 60, "width": 64, "heads": 4, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
}


@pytest.mark.parametrize("quick, activation", [(False, "gelu"), (True, "quick_gelu")])
def test_openclips_own_config_is_read(quick, activation, folder):
    model = OPENCLIP["model_cfg"] | {"quick_gelu": quick}
    _write(folder, "open_clip_config.json", OPENCLIP | {"model_cfg": model})
    for path in (folder, folder / "weights.safetensors"):
        tensors, settings = clip_weights.open_clip(path)
        image, _, text, _ = clip_weights.both_sides(path, tensors, settings)
        assert (image.transformer.heads, text.transformer.heads) == (2, 4)
        assert image.transformer.activation == text.transformer.activation == activation
        assert settings.preprocessing.squash and settings.preprocessing.mean == (0.5,) * 3
        assert settings.assumed == ()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"preprocess_cfg": 7}, "preprocess_cfg must be an object"),
        (
            {"model_cfg": {"vision_cfg": {"width": 64, "head_width": 0}, "text_cfg": {}}},
            "head_width",
        ),
        ({"preprocess_cfg": {"interpolation": ["bicubic"]}}, "interpolation"),
    ],
)
def test_a_damaged_openclip_config_is_one_line(change, message, folder):
    """Found by `make fuzz`."""
    _write(folder, "open_clip_config.json", OPENCLIP | change)
    with pytest.raises(CheckpointError, match=message):
        settings_beside(folder)


@pytest.mark.parametrize("part, key", [("vision_cfg", "timm_model_name"), ("text_cfg", "pad_id")])
def test_an_openclip_of_another_kind_is_refused_by_name(part, key, folder):
    model = OPENCLIP["model_cfg"]
    model = model | {part: model[part] | {key: "x"}}
    _write(folder, "open_clip_config.json", OPENCLIP | {"model_cfg": model})
    with pytest.raises(CheckpointError, match=f"{key}='x' is not supported"):
        settings_beside(folder)


def test_heads_of_bigg_are_20_in_its_text_side_and_16_in_its_image_side():
    """OpenCLIP's ViT-bigG-14.json: text width 1280 with 20 heads, vision width 1664, head_width
    104.
    """
    zeros = {n: np.broadcast_to(np.float32(0), x.shape) for n, x in _tensors(1280).items()}
    text, _ = clip_weights.text_side(zeros)
    assert text.transformer.heads == 20
    wide = {n: np.broadcast_to(np.float32(0), x.shape) for n, x in _tensors(1664).items()}
    visual = {n.removeprefix("visual."): x for n, x in wide.items() if n.startswith("visual.")}
    assert clip_weights.image_side(visual)[0].transformer.heads == 16


@pytest.mark.parametrize(
    "processor, message",
    [
        ({"image_mean": [0.5]}, "image_mean .* three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std .* positive"),
        ({"do_normalize": False}, "do_normalize=false"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 4}, "resample=4"),
    ],
)
def test_a_preprocessing_that_is_not_done_here_is_refused(processor, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: {message}"):
        _hugging_face(tmp_path, **processor)


def test_tensors_of_another_kind_and_quantised_ones_are_refused(tmp_path):
    for name, value, message in (
        ("visual.attn_pool.query", np.ones(3, np.float32), "1 of .*attn_pool"),
        ("transformer.resblocks.0.attn.in_proj_weight.SCB", np.ones(3, np.float32), "quantised"),
        ("text_projection", np.ones((64, 8), np.int8), "quantised"),
    ):
        save_file(_tensors() | {name: value}, tmp_path / "weights.safetensors")
        with pytest.raises(CheckpointError, match=message):
            clip_weights.read_clip(tmp_path / "weights.safetensors")


def test_a_damaged_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"model_type": "clip"}')
    assert read_settings(tmp_path)["text"]["num_attention_heads"] == 8
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": [1]}')
    with pytest.raises(CheckpointError, match="vision_config must be an object"):
        read_settings(tmp_path)
