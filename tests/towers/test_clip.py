"""CLIP: parity with transformers and with the V2L reference's ViT, both checkpoint layouts,
tokenizer.
"""

import dataclasses
import json
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_models import write_clip
from v2l_jax.errors import CheckpointError
from v2l_jax.towers import clip, clip_weights

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "v2l_reference_seeded.npz"
WORDS = ["a photo of a cat.", "Cat", "a  tac\ncat cat", "cat " * 40]


def _reference_vit(case):
    """The golden case's ViT in OpenAI's layout, regenerated from its seed (SPEC, "golden")."""
    kinds = {
        "fan_in": lambda r: r * np.prod(r.shape[1:]) ** -0.5,
        "bias": lambda r: 0.05 * r,
        "scale": lambda r: 1 + 0.1 * r,
        "vector": lambda r: 0.1 * r,
        "columns": lambda r: r * r.shape[0] ** -0.5,
    }
    random = np.random.RandomState(2024)
    tensors = {}
    for name, shape, kind in zip(case["weight_names"], case["weight_shapes"], case["weight_kinds"]):
        values = random.randn(*map(int, shape.split())).astype(np.float32)
        if name.startswith("global_encoder."):
            tensors[name.removeprefix("global_encoder.")] = kinds[kind](values).astype(np.float32)
    return tensors


def test_image_tower_matches_the_v2l_reference():
    case = np.load(GOLDEN)
    config, params = clip_weights.image_side(_reference_vit(case))
    assert (config.image_size, config.patch_size, config.dim, config.transformer.heads) == (
        56,
        14,
        768,
        1,
    )
    images = jnp.asarray(case["clip_image_nchw"].transpose(0, 2, 3, 1))
    image, patches = jax.jit(clip.ClipImage(config).apply)({"params": params}, images)
    np.testing.assert_allclose(image, case["clip_global"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(patches, case["clip_local"], atol=2e-5, rtol=0)


def _write_tokenizer(folder):
    """A vocabulary of single characters and "cat", in vocab.json and merges.txt."""
    characters = "abcdefghijklmnopqrstuvwxyz.!"
    pieces = [
        *characters,
        *(f"{c}</w>" for c in characters),
        "ca",
        "cat</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return {piece: i for i, piece in enumerate(pieces)}


@pytest.fixture(params=["quick_gelu", "gelu"])
def hugging_face(torch, request, tmp_path):
    """A directory with a random tiny CLIP, its torch model and its vocabulary."""
    import transformers

    torch.manual_seed(0)
    vocab = _write_tokenizer(tmp_path)
    shared = {"hidden_act": request.param, "num_hidden_layers": 3}
    text = {
        "vocab_size": len(vocab),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    text |= {"max_position_embeddings": 12, "eos_token_id": vocab["<|endoftext|>"], **shared}
    vision = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "image_size": 24,
        "patch_size": 8,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision | shared, projection_dim=20
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2 and "embedding" not in name:
                value.normal_(0, value[0].numel() ** -0.5)
            elif value.ndim:
                value.add_(torch.randn_like(value) * 0.2)
    model.save_pretrained(tmp_path)
    return tmp_path, model, vocab


def _torch_embeddings(model, images, ids, mask):
    import torch

    with torch.no_grad():
        outputs = model(
            pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
        )
    return outputs.image_embeds.numpy(), outputs.text_embeds.numpy()


def _torch_text_inputs(tokenizer, texts):
    encodings = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ids = np.full((len(texts), max(map(len, encodings))), encodings[0][-1])
    for row, encoding in zip(ids, encodings):
        row[: len(encoding)] = encoding
    return ids, np.arange(ids.shape[1]) < np.array([len(e) for e in encodings])[:, None]


def test_tiny_random_clip_matches_transformers(hugging_face):
    folder, model, vocab = hugging_face
    tower = clip.load_clip(folder)
    assert (tower.kind, tower.image_size, tower.dim) == ("clip", 24, 20)
    images = np.random.default_rng(0).standard_normal((3, 24, 24, 3)).astype(np.float32)
    ids, mask = _torch_text_inputs(clip.load_text_tokenizer(folder, 12), WORDS)
    expected_images, expected_texts = _torch_embeddings(model, images, ids, mask.astype(np.int64))
    result = np.asarray(jax.jit(tower.encode_image)(tower.params, images))
    np.testing.assert_allclose(result, expected_images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(tower.encode_texts(WORDS, 3), expected_texts, atol=1e-5, rtol=0)
    assert np.abs(expected_texts[0] - expected_texts[1]).max() > 0.05, (
        "the case must tell texts apart"
    )


def test_openai_layout_gives_the_same_tower(hugging_face):
    import torch

    folder, model, _ = hugging_face
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = clip_weights.from_hugging_face(state)
    assert tensors["visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (3 * 48, 48)
    saved = {
        "state_dict": {
            f"module.{k}": torch.tensor(np.ascontiguousarray(v)) for k, v in tensors.items()
        }
    }
    torch.save(saved, folder / "tiny.pt")
    activation = model.config.vision_config.hidden_act
    image, image_params, text, text_params = clip_weights.read_clip(folder / "tiny.pt", activation)
    reference = clip_weights.read_clip(folder)
    jax.tree.map(
        np.testing.assert_array_equal, (image_params, text_params), (reference[1], reference[3])
    )
    assert image.transformer.activation == text.transformer.activation == activation


def test_bfloat16_matmuls_stay_near_float32():
    case = np.load(GOLDEN)
    config, params = clip_weights.image_side(_reference_vit(case))
    images = case["clip_image_nchw"].transpose(0, 2, 3, 1)
    exact = clip.encode_image(clip.ClipImage(config), params, images)
    rounded = clip.encode_image(clip.ClipImage(config, jnp.bfloat16), params, images)
    assert 0.999 < float((exact * rounded).sum(axis=-1).min()) < 1 - 1e-7


def test_tokenizer_lowercases_merges_marks_and_truncates(tmp_path):
    vocab = _write_tokenizer(tmp_path)
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    tokenizer = clip.load_text_tokenizer(tmp_path, 8)
    expected = [start, vocab["a</w>"], vocab["cat</w>"], vocab[".</w>"], end]
    assert tokenizer.encode("a  CAT.").ids == expected
    assert tokenizer.encode("cat " * 20).ids == [start, *[vocab["cat</w>"]] * 6, end]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.json").unlink()
    assert clip.load_text_tokenizer(tmp_path, 8).encode("a  CAT.").ids == expected


def test_preprocess_pickles_without_the_parameters(hugging_face):
    preprocess = clip.load_clip(hugging_face[0]).preprocess
    assert len(pickle.dumps(preprocess)) < 1000
    image = np.full((40, 30, 3), 255, np.uint8)
    white = (1 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array(
        [0.26862954, 0.26130258, 0.27577711]
    )
    np.testing.assert_allclose(preprocess(image), np.broadcast_to(white, (24, 24, 3)), atol=1e-5)


# name: (width, heads, layers) of the image side, of the text side, patch, embedding, parameters; as
# published
PUBLISHED = {
    "ViT-B/32": ((768, 12, 12), (512, 8, 12), 32, 512, 151_277_313),
    "ViT-B/16": ((768, 12, 12), (512, 8, 12), 16, 512, 149_620_737),
    "ViT-L/14": ((1024, 16, 24), (768, 12, 12), 14, 768, 427_616_513),
    "ViT-H/14": ((1280, 16, 32), (1024, 16, 24), 14, 1024, 986_109_441),
}


def _first_block(prefix, width):
    shapes = {f"ln_{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")}
    shapes |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    return {f"{prefix}transformer.resblocks.0.{name}": shape for name, shape in shapes.items()}


def _zeros(shapes):
    return {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()
    }  # takes no memory


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_inferred_from_shapes(name):
    (width, heads, layers), (text_width, text_heads, text_layers), patch, dim, count = PUBLISHED[
        name
    ]
    shapes = _first_block("", width) | {
        "conv1.weight": (width, 3, patch, patch),
        "class_embedding": (width,),
    }
    shapes |= {"positional_embedding": ((224 // patch) ** 2 + 1, width), "proj": (width, dim)}
    shapes |= {
        f"ln_{end}.{leaf}": (width,) for end in ("pre", "post") for leaf in ("weight", "bias")
    }
    text_shapes = _first_block("", text_width) | {"token_embedding.weight": (49408, text_width)}
    text_shapes |= {"positional_embedding": (77, text_width), "text_projection": (text_width, dim)}
    text_shapes |= {"ln_final.weight": (text_width,), "ln_final.bias": (text_width,)}
    image, _ = clip_weights.image_side(_zeros(shapes))
    text, _ = clip_weights.text_side(_zeros(text_shapes))
    assert (image.image_size, image.patch_size, image.dim, image.transformer.heads) == (
        224,
        patch,
        dim,
        heads,
    )
    assert (text.vocab_size, text.context_length, text.dim, text.transformer.heads) == (
        49408,
        77,
        dim,
        text_heads,
    )
    image, text = (
        dataclasses.replace(side, transformer=dataclasses.replace(side.transformer, layers=n))
        for side, n in ((image, layers), (text, text_layers))
    )
    key, ids = jax.random.key(0), jnp.zeros((1, 77), int)
    trees = (
        jax.eval_shape(clip.ClipImage(image).init, key, jnp.zeros((1, 224, 224, 3))),
        jax.eval_shape(clip.ClipText(text).init, key, ids, jnp.array([77])),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(trees)) + 1 == count  # and the logit scale


@pytest.mark.parametrize(
    ("config", "message"),
    [(None, "has no config.json"), ({"model_type": "siglip"}, "not a 'clip'")],
)
def test_other_directories_are_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        clip.load_clip(tmp_path)


def test_resnet_clip_missing_tokenizer_and_unknown_activation_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {"visual.layer1.0.conv1.weight": np.zeros((2, 2), np.float32)},
        tmp_path / "rn50.safetensors",
    )
    with pytest.raises(
        CheckpointError, match="not a CLIP with a ViT image tower: it has no tensor .*conv1"
    ):
        clip.load_clip(tmp_path / "rn50.safetensors")
    with pytest.raises(
        CheckpointError, match="has no tokenizer.json, nor vocab.json and merges.txt"
    ):
        clip.load_text_tokenizer(tmp_path, 77)
    with pytest.raises(CheckpointError, match="activation 'relu' is not supported"):
        clip_weights.image_side(_reference_vit(np.load(GOLDEN)), {"hidden_act": "relu"})


def test_texts_whose_tokens_have_no_row_are_refused(tmp_path):
    folder = write_clip(tmp_path / "clip")
    assert clip.load_clip(folder).dim == 12
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"ca": len(vocabulary)}))
    with pytest.raises(CheckpointError, match="1 tokens, such as 'ca', have none"):
        clip.load_clip(folder)
    (folder / "vocab.json").write_text('{"a": "b"}')
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        clip.load_clip(folder)


@pytest.mark.parametrize("name, shape", [("k_proj.weight", None), ("k_proj.bias", (3, 3))])
def test_tensors_that_do_not_fit_are_one_line(tmp_path, name, shape):
    from safetensors.numpy import load_file, save_file

    file = write_clip(tmp_path / "clip") / "model.safetensors"
    tensors = load_file(file)
    full = f"text_model.encoder.layers.0.self_attn.{name}"
    del tensors[full]
    save_file(tensors | ({full: np.zeros(shape, "f4")} if shape else {}), file)
    with pytest.raises(CheckpointError, match="not a CLIP with a ViT image tower: it") as caught:
        clip.load_clip(file.parent)
    assert "\n" not in str(caught.value)


def test_older_config_layout_wins_as_in_transformers(tmp_path):
    config = {
        "model_type": "clip",
        "vision_config": {"hidden_act": "quick_gelu", "num_attention_heads": 12},
    }
    config |= {"vision_config_dict": {"hidden_act": "gelu", "num_attention_heads": 16}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = clip_weights.read_settings(tmp_path)
    assert settings["vision"] == {
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
    assert settings["text"] == {
        "num_attention_heads": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
