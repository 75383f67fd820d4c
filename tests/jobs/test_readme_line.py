"""The manual's line for any LLaMA and any CLIP runs whole, on tiny models."""

import logging
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from tests.tiny_models import sentencepiece, write_clip, write_llm
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import runner, train
from v2l_jax.metrics.results import read_results
from v2l_jax.run.workdir import read_json

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "codebook.expand_limit=32", "codebook.expand_batch_size=32", "codebook.ngrams=2",
    "model.image_size=8", "model.channel_multipliers=1,", "model.z_channels=8",
    "train.steps=2", "train.batch_size=8", "train.perceptual=", "train.eval_every=2",
    "train.loader_workers=0", "data.unlabelled=()", "data.report=()",
    "evaluate.few_shot.shots=1,", "evaluate.few_shot.repetitions=0", "evaluate.few_shot.tokens=5",
    "evaluate.few_shot.ways=2,", "evaluate.few_shot.rule=greedy", "evaluate.few_shot.episodes=2",
    "tower_options.dtype=float32", "llm_options.dtype=float32",
)  # fmt: skip


def the_line():
    """Its words, without the program."""
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^python -m v2l_jax.main .*Llama-2-7b-hf.*$", text, re.MULTILINE)
    return shlex.split(line)[3:]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """What the line asks for, over tiny files."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for i in range(16):
        path = folder / "photos" / ("warm", "cold")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(rng.integers(0, 256, (2, 2, 3), np.uint8), (8, 8, 1))).save(path)
    llm = write_llm(folder / "llama", "llama", sentencepiece(360), context=4096)
    clip = write_clip(folder / "clip")
    rest, asked = experiment.split_overrides(the_line())
    assert rest == ["--config=configs/few_shot.py", "--workdir=runs/llama"]
    here = {"llm": str(llm), "tower": f"clip:{clip}"}
    assert {key for key, value in asked if value.removeprefix("clip:")[:5] == "hf://"} == set(here)
    small = [(key, value) for key, _, value in (text.partition("=") for text in SMALL)]
    small.append(("data.labelled", f"{folder / 'photos'},"))
    return experiment.load(ROOT / "configs" / "few_shot.py", [*here.items(), *small])


def test_every_job_runs(config, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        runner.run_jobs(config, tmp_path)
    assert "training starts from nothing: v2l-mini speaks the words of another" in caplog.text
    assert read_json(tmp_path / "training.json", {})["steps"] == 2
    rows = [r for r in read_results(tmp_path / "results.json") if r.metric == "few_shot_accuracy"]
    assert {(r.measured_on["tokens"], r.measured_on["llm"]) for r in rows} == {(5, config.llm)}
    assert "Table 1" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_other_words_are_an_error_where_that_is_not_allowed(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.train.start_from_nothing, config.jobs = False, ("codebook", "train")
    with pytest.raises(ConfigError, match="v2l-mini speaks the words of another language model"):
        runner.run_jobs(config, tmp_path)
    assert not train.is_done(config, tmp_path)
