"""Any model: LLaMA-family directories and a CLIP directory, made here and random, go through the
jobs by their paths alone.
"""

import shutil

import numpy as np
import pytest
import tokenizers
from PIL import Image

from tests.tiny_config import get_config
from tests.tiny_models import byte_level, sentencepiece, write_clip, write_llm
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


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


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
    [("llama", sentencepiece), ("mistral", sentencepiece), ("qwen2", byte_level)],
)
def test_a_directory_is_enough(family, tokenizer, clip, photos, tmp_path):
    llm = write_llm(tmp_path / "llm", family, tokenizer(360))
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
    llm = write_llm(folder / "first", "qwen2", byte_level(360))
    config = _config(llm, clip, photos)
    config.jobs = ("codebook",)
    runner.run_jobs(config, folder / "run")
    return folder


def test_another_model_of_the_same_tokenizer_reads_the_same_words(words, clip, photos, tmp_path):
    second = write_llm(tmp_path / "second", "mistral", byte_level(360), seed=1)
    first, second = (
        Run(_config(llm, clip, photos), words / "run").global_words
        for llm in (words / "first", second)
    )
    assert first.texts == second.texts and len(first) > 1


@pytest.mark.parametrize(
    "name, backend", [("smaller", byte_level(320)), ("other", sentencepiece(360))]
)
def test_words_of_another_tokenizer_are_refused(words, clip, photos, tmp_path, name, backend):
    config = _config(write_llm(tmp_path / name, "llama", backend), clip, photos)
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
