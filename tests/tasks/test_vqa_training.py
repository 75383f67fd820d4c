"""Questions as training texts, and the tuned model asked about others."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.tiny_visual_words import COLOURS, get_config
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import finetune, runner, vocabulary
from v2l_jax.metrics.results import read_results
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.word_rows import said_digest, texts_of_images
from v2l_jax.run.run import Run
from v2l_jax.tasks import vqa
from v2l_jax.tasks.harness.tuned import untrained


def _write_questions(folder, count, seed):
    """easy-VQA's layout: each picture asked for its colour."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        name = list(COLOURS)[i % 3]
        pixels = np.clip(rng.normal(COLOURS[name], 25, (20, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append(["what color is the shape?", name, i])
    (folder / "questions.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = get_config(asset, folder)
    _write_questions(folder / "train", 60, 1)
    _write_questions(folder / "test", 12, 2)
    config.evaluate.vqa.easy_vqa.update(
        {"name": "colours", "asked": str(folder / "test"), "shown": str(folder / "train")}
    )
    config.evaluate.vqa.update(
        {"sets": ("easy_vqa",), "shots": 0, "shown_questions": 0, "questions": 0, "tuned": True}
    )
    config.evaluate.vqa.update({"answering": ("closed",), "controls": ("shuffled",)})
    config.evaluate.tasks = ("vqa",)
    config.finetune.update({"task": "vqa", "steps": 30})
    config.jobs = ("vocabulary", "finetune", "evaluate", "report")
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    runner.run_jobs(config, workdir)
    return workdir


def test_the_tuned_model_answers_new_questions(workdir):
    rows = read_results(workdir / "results.json")
    found = {
        (row.measured_on["control"], row.measured_on.get("answer_type", row.metric)): row.value
        for row in rows
    }
    assert found["none", "visual_tokens"] == 4 + 2 and found["none", "training_flops"] > 0
    assert found["none", "color"] == 1
    assert found["shuffled", "color"] < 0.9
    page = (workdir / "report.html").read_text()
    assert "fine-tuned: rank 2" in page and "Trained parameters, M" in page


def test_texts_are_prompts_with_the_answer_and_the_end_of_its_line(config, workdir):
    run = untrained(Run(config, workdir))
    texts = vqa.training_texts(run)
    assert (texts.count("train"), texts.count("held_out")) == (57, 3)
    batch = texts.texts("train", np.array([0, 1]), (0,))
    decode, tokens, targets = run.llm.tokenizer.decode, batch["tokens"], batch["targets"]
    for row, answer in enumerate((" green\n", " blue\n")):  # the first picture is held out
        shown = [int(t) for t in tokens[row] if 0 <= t < 49152]
        assert decode(shown).startswith("Condition: . Question:")
        assert decode(tokens[row][targets[row][targets[row] >= 0]].tolist()) == answer
        assert tokens[row][targets[row].max() + 1 :].tolist() == [-1] * (
            tokens.shape[1] - targets[row].max() - 1
        )


def test_examples_in_the_prompt_are_not_for_training(config, workdir):
    changed = config.copy_and_resolve_references()
    changed.evaluate.vqa.shots = 2
    with pytest.raises(ConfigError, match="one set and no examples"):
        vqa.training_texts(untrained(Run(changed, workdir)))


def test_more_texts_together_than_an_image_has_are_refused(config, workdir):
    changed = config.copy_and_resolve_references()
    changed.finetune.together = 2
    with pytest.raises(ConfigError, match="together is 2, but an image has at most 1 of the texts"):
        finetune.training_texts(Run(changed, workdir))


def test_answers_say_what_an_image_shows(config, tmp_path):
    """They are what rows start from, by a ridge regression."""
    changed, said = config.copy_and_resolve_references(), config.evaluate.vqa.easy_vqa.shown
    changed.data.labelled = (said,)
    changed.representation.visual_words.update({"rows_start": "ridge", "said": said})
    run, names = Run(changed, tmp_path), list(COLOURS)
    texts, paths = texts_of_images(said, run.photos.train), ImageSet(("train", run.photos.train))
    assert texts == {i: names[int(pathlib.Path(p).stem) % 3] for i, p in enumerate(paths)}
    assert representation(changed).fingerprint()["said"] == said_digest(said)
    assert said_digest(said).startswith("train ")
    vocabulary.run(changed, tmp_path)
    rows = representation(changed).new_rows(run)
    assert rows is not None and np.ptp(rows[:6], axis=0).max() > 0.01
