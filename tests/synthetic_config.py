"""A training run on noise, small enough for several processes at once; `fill` writes what the
codebook job would.
"""

import pathlib
import runpy

import numpy as np
from ml_collections import ConfigDict

DIM, LOCAL_WORDS, GLOBAL_WORDS, IMAGES = 32, 50, 21, 48


def get_config() -> ConfigDict:
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny_config.py")))["get_config"]()
    config.jobs = ("train",)
    config.data.kind = "synthetic"
    config.data.name = "noise"
    config.data.labelled = ()
    config.data.synthetic_length = IMAGES
    config.data.synthetic_size = 20
    config.model.image_size = 16
    config.model.channel_multipliers = (1,)
    config.model.global_tokens = 4
    config.train.steps = 10
    config.train.batch_size = 8
    config.train.learning_rate = (
        1e-6  # far from where rounding decides: see tests/jobs/test_meshes.py
    )
    config.train.disc_start = 3
    config.train.encoder_start = 0
    config.train.projector_fit_every = 0
    config.train.log_every = 1
    config.train.eval_every = 5
    config.train.checkpoint_every = 4
    return config


def fill(workdir: pathlib.Path) -> list[str]:
    """Writes codebooks, features and a tokenizer; returns the flags of the run."""
    import tokenizers

    from v2l_jax.codebook.codebook import Codebook
    from v2l_jax.jobs import codebook
    from v2l_jax.llm.text_tokenizers import load_text_tokenizer

    llm = workdir / "llm"
    llm.mkdir(parents=True)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.save(str(llm / "tokenizer.json"))
    (llm / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    fingerprint = load_text_tokenizer(llm).fingerprint
    random = np.random.RandomState(0)
    for path, count in (
        (codebook.local_path(workdir), LOCAL_WORDS),
        (codebook.global_path(workdir), GLOBAL_WORDS),
    ):
        texts = tuple(str(number) for number in range(count))
        vectors = random.randn(count, DIM).astype("float32")
        Codebook(vectors, texts, ((1,),) * count, "noise", fingerprint).save(path)
    (workdir / "features").mkdir()
    for split in ("train", "held_out"):
        np.save(workdir / "features" / f"{split}.npy", random.randn(IMAGES, DIM).astype("float32"))
    return ["--config=tests/synthetic_config.py", f"--workdir={workdir}", f"--config.llm={llm}"]
