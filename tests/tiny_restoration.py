"""A run that masked restoration starts from, without the jobs before it: a tiny random LLM, a
codebook and words of photos.
"""

import json
import pathlib
import runpy

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from tests import tiny_config
from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.jobs import codebook
from v2l_jax.llm.llama_config import config_from_huggingface
from v2l_jax.llm.llama_weights import HUGGINGFACE_NAMES
from v2l_jax.run import loading
from v2l_jax.run.paths import tokens_path
from v2l_jax.run.tokens import SPLITS

RESTORATION = pathlib.Path(__file__).parents[1] / "configs" / "restoration.py"
SIDE, WORDS, GLOBAL_TOKENS = 4, 60, 5
SIZES = dict(
    model_type="llama", vocab_size=49152, hidden_size=16, intermediate_size=24,
    num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=96, rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip


def get_config(asset, folder: pathlib.Path) -> ConfigDict:
    """The restoration config on a tiny language model, which is written to `folder`."""
    _write_llm(folder)
    asset("smollm2-135m-instruct")
    config = tiny_config.get_config()
    theirs = runpy.run_path(str(RESTORATION))["get_config"]()
    config.finetune, config.evaluate.tasks, config.evaluate.restoration = (
        theirs.finetune,
        theirs.evaluate.tasks,
        theirs.evaluate.restoration,
    )
    config.llm, config.llm_options.tokenizer = str(folder), "smollm2-135m-instruct"
    config.data.kind, config.data.name, config.data.synthetic_length = "synthetic", "noise", 20
    config.model.image_size = 2 * SIDE
    config.finetune.update(
        rank=2,
        steps=8,
        batch_size=8,
        log_every=2,
        eval_every=4,
        eval_images=8,
        checkpoint_every=2,
        learning_rate=0.05,
    )
    config.evaluate.restoration.update(images=6, pictures=2, batch_size=8)
    return config


def _write_llm(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text(json.dumps(SIZES))
    sizes, rng = config_from_huggingface(SIZES), np.random.default_rng(0)
    width, heads, inner = (
        sizes.hidden_size,
        sizes.num_heads * sizes.head_dim,
        sizes.intermediate_size,
    )
    shapes = {
        "query": (heads, width), "key": (sizes.head_dim, width), "value": (sizes.head_dim, width),
        "attention_output": (width, heads),
        "gate": (inner, width), "up": (inner, width), "down": (width, inner),
        "attention_norm": (width,), "mlp_norm": (width,),
    }  # fmt: skip
    tensors = {
        HUGGINGFACE_NAMES["embedding"]: rng.standard_normal((49152, width)) / 2,
        HUGGINGFACE_NAMES["final_norm"]: np.ones(width),
    }
    for layer in range(sizes.num_layers):
        for name, shape in shapes.items():
            tensors[HUGGINGFACE_NAMES[name].format(layer)] = (
                np.ones(shape) if len(shape) == 1 else rng.standard_normal(shape) / 2
            )
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )


def make_workdir(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Codebooks, and words of as many photos as the config has: each photo's local words are of one
    tenth of the codebook.
    """
    rng, tokenizer = np.random.default_rng(1), loading.text_tokenizer(config)
    texts = tuple(
        text for text in tokenizer.token_texts() if text[:1] == " " and text[1:].isalpha()
    )[:WORDS]
    ids = tuple((tokenizer.encode(text)[0],) for text in texts)
    vectors = rng.standard_normal((WORDS, 12)).astype(np.float32)
    book = Codebook(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        texts,
        ids,
        "none",
        tokenizer.fingerprint,
    )
    book.save(codebook.local_path(workdir))
    book.save(codebook.global_path(workdir))
    for split in SPLITS:
        subject = rng.integers(0, 10, (config.data.synthetic_length, 1, 1)) * 6
        local = subject + rng.integers(0, 6, (config.data.synthetic_length, SIDE, SIDE))
        with atomic_write(tokens_path(workdir, split)) as path:
            np.savez(
                path,
                global_ids=rng.integers(0, WORDS, (len(local), GLOBAL_TOKENS), np.int32),
                local_ids=local.astype(np.int32),
            )
    return workdir
