"""Any model: LLaMA-family directories and a CLIP directory, made here and random, go through the
jobs by their paths alone.
"""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from PIL import Image
from safetensors.numpy import save_file

from tests.tiny_config import get_config
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import runner
from v2l_jax.metrics.results import read_results
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.token_choice import single_words
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.run import loading
from v2l_jax.run.run import Run

CORPUS = [
    "a photo of a cat and a dog on the red sofa near a green tree",
    "two dogs run over the grass while the cat sleeps under a table",
    "pizza with cheese and basil on a white plate beside a glass of water",
] * 3
WIDTH, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 48, 2, 4, 2, 8


def _random(seed, shapes):
    """Weights of unit gain, norms about 1, biases about 0."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        is_norm = "norm" in name and name.endswith("weight")
        tensors[name] = (rng.standard_normal(shape) * scale + is_norm).astype(np.float32)
    return tensors


def _byte_level(size):
    """A tokenizer as of GPT-2, Qwen2 and LLaMA 3."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _sentencepiece(size):
    """A tokenizer as of LLaMA 1 and 2 and Mistral, with bytes to fall back on."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    normalizers = tokenizers.normalizers
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    decoders = tokenizers.decoders
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    special = ["<unk>", "<|begin|>", "<|end|>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False
    )
    # Words apart, so that no merge spans them; the finished pipeline splits nowhere, as published.
    backend.train_from_iterator([word for line in CORPUS for word in line.split()], trainer)
    pipeline = json.loads(backend.to_str())
    for token in pipeline["added_tokens"]:
        token["special"] = not token["content"].startswith("<0x")
    pipeline["added_tokens"] = [token for token in pipeline["added_tokens"] if token["special"]]
    return tokenizers.Tokenizer.from_str(json.dumps(pipeline))


def _write_llm(folder, family, backend, seed=0):
    """A directory in Hugging Face's layout, with random weights."""
    folder.mkdir()
    vocab = backend.get_vocab_size()
    config = {
        "model_type": family, "vocab_size": vocab, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": family == "qwen2", "sliding_window": 16, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    backend.save(str(folder / "tokenizer.json"))
    shapes = {"model.embed_tokens.weight": (vocab, WIDTH), "model.norm.weight": (WIDTH,)}
    if family != "qwen2":
        shapes["lm_head.weight"] = (vocab, WIDTH)
    rows = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    for layer in (f"model.layers.{i}." for i in range(LAYERS)):
        shapes |= {
            f"{layer}input_layernorm.weight": (WIDTH,),
            f"{layer}post_attention_layernorm.weight": (WIDTH,),
        }
        shapes |= {
            f"{layer}self_attn.{part}_proj.weight": (count, WIDTH) for part, count in rows.items()
        }
        if family == "qwen2":
            shapes |= {
                f"{layer}self_attn.{part}_proj.bias": (count,) for part, count in rows.items()
            }
        shapes[f"{layer}self_attn.o_proj.weight"] = (WIDTH, HEADS * HEAD_DIM)
        shapes |= {f"{layer}mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (WIDTH, INNER)
    save_file(_random(seed, shapes), folder / "model.safetensors")
    return folder


def _block_shapes(prefix, width):
    shapes = {
        f"{prefix}{name}.{leaf}": (width,)
        for name in ("layer_norm1", "layer_norm2")
        for leaf in ("weight", "bias")
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {
            f"{prefix}self_attn.{part}.weight": (width, width),
            f"{prefix}self_attn.{part}.bias": (width,),
        }
    shapes |= {f"{prefix}mlp.fc1.weight": (2 * width, width), f"{prefix}mlp.fc1.bias": (2 * width,)}
    return shapes | {
        f"{prefix}mlp.fc2.weight": (width, 2 * width),
        f"{prefix}mlp.fc2.bias": (width,),
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP directory in Hugging Face's layout: 2 layers a side, 16 pixels, 12 dimensions."""
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    folder.mkdir()
    pieces = [c + end for end in ("", "</w>") for c in "abcdefghijklmnopqrstuvwxyz0123456789.,'"]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    side = {"num_attention_heads": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": side, "vision_config": side})
    )
    shapes = {
        "text_model.embeddings.token_embedding.weight": (len(vocab), 16),
        "vision_model.embeddings.class_embedding": (24,),
    }
    shapes |= {
        "text_model.embeddings.position_embedding.weight": (32, 16),
        "vision_model.embeddings.position_embedding.weight": (5, 24),
    }
    shapes |= {"vision_model.embeddings.patch_embedding.weight": (24, 3, 8, 8)}
    for name, width in (
        ("vision_model.pre_layrnorm", 24),
        ("vision_model.post_layernorm", 24),
        ("text_model.final_layer_norm", 16),
    ):
        shapes |= {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for i in range(2):
        shapes |= _block_shapes(f"text_model.encoder.layers.{i}.", 16) | _block_shapes(
            f"vision_model.encoder.layers.{i}.", 24
        )
    shapes |= {"visual_projection.weight": (12, 24), "text_projection.weight": (12, 16)}
    save_file(_random(1, shapes), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of patches, each of a colour of its own."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(24):
        path = folder / ("warm", "cold")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.tile(rng.integers(0, 256, (2, 2, 3), np.uint8), (8, 8, 1))).save(path)
    return folder


def _config(llm, clip, photos):
    config = get_config()
    config.llm, config.tower = str(llm), f"clip:{clip}"
    config.jobs = ("codebook", "evaluate")
    config.data.labelled, config.data.name = (str(photos),), "patches"
    config.codebook.expand_limit, config.codebook.expand_batch_size = 64, 64
    config.evaluate.tasks = ("few_shot",)
    return config


@pytest.mark.parametrize(
    "family, tokenizer",
    [("llama", _sentencepiece), ("mistral", _sentencepiece), ("qwen2", _byte_level)],
)
def test_a_directory_is_enough(family, tokenizer, clip, photos, tmp_path):
    llm = _write_llm(tmp_path / "llm", family, tokenizer(360))
    config = _config(llm, clip, photos)
    runner.run_jobs(config, tmp_path / "run")

    book = Codebook.load(tmp_path / "run" / "codebook" / "candidates.safetensors")
    reader = tokenizers.Tokenizer.from_file(str(llm / "tokenizer.json"))
    assert book.tower == "tiny-clip" and any(len(ids) == 2 for ids in book.token_ids)
    whole = [
        (text, ids)
        for text, ids in zip(book.texts, book.token_ids, strict=True)
        if "\ufffd" not in text
    ]
    assert len(whole) > 30, "fragments of characters, which readers write differently, are few"
    for text, ids in whole:
        assert text.strip() == reader.decode(list(ids)).strip()

    rows = [
        row
        for row in read_results(tmp_path / "run" / "results.json")
        if row.metric == "few_shot_accuracy"
    ]
    assert {row.measured_on["control"] for row in rows} >= {"none", "shuffled"}
    for row in rows:
        assert row.count == 6 and 0 <= row.value <= 1
        assert (row.measured_on["llm"], row.measured_on["tower"], row.measured_on["dataset"]) == (
            str(llm),
            "tiny-clip",
            "patches",
        )

    run = Run(config, tmp_path / "run")
    tower, source = loading.image_text_tower(config), run.photos.held_out
    words = representation(config).segments(run, ImageSet(("held_out", source)), 3)
    book = single_words(run.global_words)  # as the quickstart's config asks
    images = np.stack([tower.preprocess(source[i]["image"]) for i in range(4)])
    distances = np.linalg.norm(
        np.asarray(tower.encode_image(tower.params, images))[:, None] - book.embeddings, axis=-1
    )
    assert list(words)[:4] == [
        word_texts([book.texts[i] for i in order[:3]])
        for order in np.argsort(distances, kind="stable")
    ]
    assert len(set(words)) > 1


@pytest.fixture(scope="module")
def words(clip, photos, tmp_path_factory):
    """A language model's folder and a run of it that has its words; nothing else has run."""
    folder = tmp_path_factory.mktemp("words")
    llm = _write_llm(folder / "first", "qwen2", _byte_level(360))
    config = _config(llm, clip, photos)
    config.jobs = ("codebook",)
    runner.run_jobs(config, folder / "run")
    return folder


def test_another_model_of_the_same_tokenizer_reads_the_same_words(words, clip, photos, tmp_path):
    second = _write_llm(tmp_path / "second", "mistral", _byte_level(360), seed=1)
    first, second = (
        Run(_config(llm, clip, photos), words / "run").global_words
        for llm in (words / "first", second)
    )
    assert first.texts == second.texts and len(first) > 1


@pytest.mark.parametrize(
    "name, backend", [("smaller", _byte_level(320)), ("other", _sentencepiece(360))]
)
def test_words_of_another_tokenizer_are_refused(words, clip, photos, tmp_path, name, backend):
    config = _config(_write_llm(tmp_path / name, "llama", backend), clip, photos)
    with pytest.raises(
        ConfigError, match="holds words of another language model .* than the one configured"
    ) as error:
        runner.run_jobs(config, words / "run")
    assert "\n" not in str(error.value) and not (words / "run" / "results.json").exists()


def test_words_of_another_tower_are_refused(words, clip, photos, tmp_path):
    other = tmp_path / "other-clip"
    shutil.copytree(clip, other)
    config = _config(words / "first", other, photos)
    with pytest.raises(ConfigError, match=r"another config \(differs at tower\)"):
        runner.run_jobs(config, words / "run")
    with pytest.raises(ConfigError, match="made with the tower tiny-clip, not other-clip"):
        _ = Run(config, words / "run").tower
