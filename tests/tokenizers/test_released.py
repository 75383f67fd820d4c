"""A tokenizer as files: the same words and pictures afterwards, and every kind of damage is
named.
"""

import dataclasses
import json
import shutil

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.tokenizers import V2LTokenizer, decode, load_tokenizer, save_tokenizer, tokenize

SIZES = {
    "channels": 32,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "z_channels": 16,
    "attn_resolutions": (8,),
}
MODEL = V2LTokenizer(**SIZES, resolution=16, word_dim=24, num_local_words=40, num_global_words=9)
FACTS = {"image_size": 16, "global_tokens": 3, "name": "tiny"}


def book(count, seed):
    vectors = np.random.RandomState(seed).randn(count, 24).astype(np.float32)
    return Codebook(
        vectors,
        tuple(f" w{i}" for i in range(count)),
        tuple((i,) for i in range(count)),
        "tower",
        "llm",
    )


@pytest.fixture(scope="module")
def trained():
    """Parameters with no zeros and no ones, codebooks, and what the tokenizer makes of two
    images.
    """
    images = np.random.RandomState(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    image_embedding = np.random.RandomState(2).randn(2, 24).astype(np.float32)
    params = MODEL.init(jax.random.key(0), jnp.asarray(images), jnp.asarray(image_embedding), 3)[
        "params"
    ]
    leaves, shape = jax.tree.flatten(params)
    leaves = [
        np.asarray(leaf) + 0.02 * np.random.RandomState(i).randn(*leaf.shape).astype(np.float32)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(shape, leaves), book(40, 3), book(9, 4), images, image_embedding


@pytest.fixture
def folder(trained, tmp_path):
    """A saved tokenizer, half precision."""
    params, local, global_, _, _ = trained
    save_tokenizer(tmp_path / "tiny", MODEL, params, local, global_, **FACTS)
    return tmp_path / "tiny"


def use(model, variables, images, image_embedding):
    tokens = tokenize(model, variables, images, image_embedding, 3)
    return [
        np.asarray(x)
        for x in (tokens.local_ids, tokens.global_ids, decode(model, variables, tokens))
    ]


def test_float32_comes_back_bit_for_bit(trained, tmp_path):
    params, local, global_, images, image_embedding = trained
    save_tokenizer(tmp_path, MODEL, params, local, global_, **FACTS, dtype="float32")
    loaded = load_tokenizer(tmp_path, llm="llm")
    assert loaded.model == MODEL and (loaded.image_size, loaded.global_tokens, loaded.name) == (
        16,
        3,
        "tiny",
    )
    assert (
        loaded.local_words.texts == local.texts
        and loaded.global_words.token_ids == global_.token_ids
    )
    variables = {
        "params": params,
        "frozen": {"local_words": local.embeddings, "global_words": global_.embeddings},
    }
    for before, after in zip(
        use(MODEL, variables, images, image_embedding),
        use(loaded.model, loaded.variables, images, image_embedding),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


def test_float16_is_each_number_rounded_once(trained, folder, tmp_path):
    params, local, global_, images, image_embedding = trained
    loaded = load_tokenizer(folder)
    rounded = jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, rounded, loaded.variables["params"])
    np.testing.assert_array_equal(
        loaded.variables["frozen"]["local_words"],
        local.embeddings.astype(np.float16).astype(np.float32),
    )
    variables = {
        "params": params,
        "frozen": {"local_words": local.embeddings, "global_words": global_.embeddings},
    }
    before, after = (
        use(MODEL, variables, images, image_embedding),
        use(loaded.model, loaded.variables, images, image_embedding),
    )
    assert np.mean(before[0] == after[0]) > 0.9 and (before[1] == after[1]).all()

    save_tokenizer(
        tmp_path / "again",
        loaded.model,
        loaded.variables["params"],
        loaded.local_words,
        loaded.global_words,
        **FACTS,
    )
    again = load_tokenizer(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, again.variables)
    for one, other in zip(
        after, use(again.model, again.variables, images, image_embedding), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_words_of_another_model_or_tower(trained, folder):
    _, local, _, _, _ = trained
    with pytest.raises(ConfigError, match="another language model"):
        load_tokenizer(folder, llm="other")
    loaded = load_tokenizer(folder)
    loaded.check_words(local)
    jitter = 1e-3 * np.random.RandomState(0).randn(*local.embeddings.shape).astype(np.float32)
    loaded.check_words(dataclasses.replace(local, embeddings=local.embeddings + jitter))
    for changed, says in (
        (
            dataclasses.replace(local, llm="other"),
            "tiny speaks the words of another language model",
        ),
        (local.take(np.arange(39)), "40 local words, others or in another order than these 39"),
        (local.take(np.arange(40)[::-1]), "in another order"),
        (dataclasses.replace(local, tower="clip"), "of the tower tower; these are of clip"),
        (dataclasses.replace(local, embeddings=local.embeddings[::-1]), "made otherwise"),
        (dataclasses.replace(local, embeddings=local.embeddings[:, :8]), "made otherwise"),
    ):
        with pytest.raises(ConfigError, match=says):
            loaded.check_words(changed)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "local_words.safetensors", "global_words.safetensors"]
)
def test_a_file_cut_short_changed_or_missing(folder, file):
    path, content = folder / file, (folder / file).read_bytes()
    for damaged in (
        content[:-1],
        content[: len(content) // 2],
        b"",
        content[:-1] + bytes([content[-1] ^ 1]),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{file} was cut short or changed"):
            load_tokenizer(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {file}"):
        load_tokenizer(folder)


def test_tensors_that_are_missing_or_do_not_fit(trained, folder):
    params = flax.traverse_util.flatten_dict(trained[0], sep="/")
    for name, change in (
        ("conv_out/bias", lambda arrays: arrays.pop("conv_out/bias")),
        ("surplus", lambda arrays: arrays.update(surplus=np.zeros(3, np.float32))),
        (
            "projector/kernel",
            lambda arrays: arrays.update({"projector/kernel": np.zeros((3, 24), np.float32)}),
        ),
    ):
        arrays = {path: np.asarray(value) for path, value in params.items()}
        change(arrays)
        write(folder, arrays)
        with pytest.raises(CheckpointError, match=f"{name} has shape"):
            load_tokenizer(folder)
    shutil.copy(folder / "model.safetensors", folder / "local_words.safetensors")
    redo(folder)
    with pytest.raises(CheckpointError):
        load_tokenizer(folder)


def write(folder, arrays):
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    redo(folder)


def redo(folder):
    """Makes config.json agree with the files, as someone who edits a release would."""
    from v2l_jax.tokenizers import released

    described = json.loads((folder / "config.json").read_text())
    described["sha256"] = {file: released._digest(folder / file) for file in described["sha256"]}
    (folder / "config.json").write_text(json.dumps(described))


def test_configs_that_are_none(folder):
    path = folder / "config.json"
    described = json.loads(path.read_text())
    for text, says in (
        ("{", "not valid JSON.*; give the folder"),
        ("[" * 5000, "not valid JSON"),
        ("[]", "holds a list"),
        (
            json.dumps(described | {"format": "v2l_jax tokenizer 9"}),
            "does not describe a tokenizer of this version",
        ),
        (
            json.dumps(described | {"sha256": {"../../etc/passwd": "0"}}),
            "does not name the three files",
        ),
        (json.dumps(described | {"model": {}}), "'channels' is None"),
        (json.dumps(described | {"model": 3}), "'model' must be an object"),
        (json.dumps(described | {"image_size": "16"}), "'image_size' is \"16\""),
        (json.dumps(described | {"sha256": list(described["sha256"])}), "the three files"),
        (
            json.dumps(described | {"model": described["model"] | {"num_res_blocks": 1 << 30}}),
            "asks for 1073741824 blocks a level",
        ),
        (
            json.dumps(described | {"model": described["model"] | {"channels": 0}}),
            "not a tokenizer of this version",
        ),
        (json.dumps(described | {"llm": "other"}), "not those of its config.json"),
        (
            json.dumps(described | {"model": described["model"] | {"num_local_words": 41}}),
            "not those of its config.json",
        ),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=says):
            load_tokenizer(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="give the folder"):
        load_tokenizer(folder)


def test_numbers_too_large_for_half_precision(trained, tmp_path):
    params, local, global_, _, _ = trained
    params = params | {"conv_out": params["conv_out"] | {"bias": np.full(3, 1e6, np.float32)}}
    with pytest.raises(CheckpointError, match="conv_out/bias has numbers that float16 cannot hold"):
        save_tokenizer(tmp_path, MODEL, params, local, global_, **FACTS)
