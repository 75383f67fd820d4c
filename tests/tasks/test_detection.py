"""Detection as text from COCO files to COCO's averages, on tiny networks."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.tiny_visual_words import COLOURS, get_config
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import finetune, vocabulary
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.metrics.results import read_results
from v2l_jax.run import adapters
from v2l_jax.run.run import Run
from v2l_jax.tasks import detection
from v2l_jax.training.metric_log import read_metrics

BOXES = {"left": [0, 0, 8, 16], "right": [8, 0, 8, 16]}


def _write(folder, count, seed, names=tuple(COLOURS)):
    """Images whose left or right half has a colour, with COCO's annotations."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        label, box = i % 3, list(BOXES.values())[i // 3 % 2]
        pixels = rng.normal(128, 10, (16, 16, 3))
        pixels[:, box[0] : box[0] + 8] = rng.normal(list(COLOURS.values())[label], 10, (16, 8, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 16, "width": 16})
        annotations.append({"id": i, "image_id": i, "category_id": label + 1, "bbox": box})
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "instances.json"), str(folder / "images")


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = get_config(asset, folder)
    shown, asked = _write(folder / "train", 60, 1), _write(folder / "test", 12, 2)
    config.data.labelled = (str(folder / "train"),)
    config.evaluate.tasks = ("detection",)
    config.evaluate.detection.update({"name": "halves", "shown": shown, "asked": asked})
    config.evaluate.detection.update({"bins": 3, "objects": 2, "controls": ("shuffled",)})
    config.finetune.task = "detection"
    config.representation.visual_words.words = 8
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """The run after two steps of training."""
    workdir = tmp_path_factory.mktemp("run")
    config.finetune.update({"steps": 2, "checkpoint_every": 2, "eval_every": 2, "eval_images": 8})
    for job in (vocabulary, finetune):
        job.run(config, workdir)
    return workdir


def test_objects_that_the_language_model_writes_are_scored(config, workdir, monkeypatch):
    """One that writes what stands in the prompt's image: its object for sure, and another one
    without much hope.
    """
    run = Run(config, workdir)
    images = detection.read_set(config, "asked")
    how = detection.text_of(run.config, run.llm.tokenizer, images)
    shown: dict[tuple[int, ...], int] = {}

    def follow(engine, prompts, grammar, most, description):
        for i, prompt in enumerate(prompts):
            shown.setdefault(tuple(prompt), i)  # the images themselves are asked first
        answers = []
        for prompt in prompts:
            one, ids, likely = images.images[shown[tuple(prompt)]], [], []
            for label, hope in ((one.classes[0], -0.1), ((one.classes[0] + 1) % 3, -3.0)):
                start = len(ids)
                ids += how.name_ids(how.names[label])
                for place in how.places(one.boxes[0], one.size):
                    ids += how.places_ids[place]
                ids += how.semicolon
                likely += [hope / len(how.name_ids(how.names[label]))] * (len(ids) - start)
            answers.append((ids, np.asarray(likely, np.float32)))
        return answers

    monkeypatch.setattr(LLMEngine, "follow", follow)
    detection.measure(run, detection.settings(config))
    found = {
        (row.measured_on["control"], row.measured_on.get("score"), row.metric): row.value
        for row in read_results(workdir / "results.json")
    }
    assert found["none", "class", "mAP"] == pytest.approx(1) and found["none", "none", "f1"] == 1
    assert found["none", "constant", "mAP"] < 0.9  # what is wrong is no longer below what is right
    assert found["shuffled", "class", "AP50"] < 0.6 and found["shuffled", "none", "f1"] < 0.6
    assert {score for _, score, metric in found if metric == "mAP"} == {
        "class", "mean", "rank", "constant",
    }  # fmt: skip
    assert found["none", "none", "trained_parameters"] > 0
    assert found["none", "none", "tokenize_seconds"] > 0
    written = json.loads((workdir / "evaluate/detection/tuned-none-class.json").read_text())
    assert len(written) == 2 * 12 and {row["category_id"] for row in written} == {1, 2, 3}
    section = detection.section(run, read_results(workdir / "results.json"))
    assert section is not None
    (table,) = section.tables
    assert "Trained parameters, M" in str(table) and "mAP" in str(table)


def test_texts_to_learn_from_are_drawn_anew_each_step(config, workdir):
    texts = detection.training_texts(Run(config, workdir))
    assert (texts.count("train"), texts.count("held_out")) == (57, 3)
    one, other = (texts.texts("train", np.arange(4), (0, step)) for step in (1, 2))
    again = texts.texts("train", np.arange(4), (0, 1))
    np.testing.assert_array_equal(one["tokens"], again["tokens"])
    assert (one["tokens"] != other["tokens"]).any()
    (row,) = read_metrics(workdir / "finetune" / "metrics.jsonl")[-1:]
    assert 0 < row["loss"] < 20


def test_adapters_of_other_texts_are_refused(config, workdir):
    other = config.copy_and_resolve_references()
    other.evaluate.detection.bins = 5
    assert adapters.are_there(config, workdir) and not adapters.are_there(other, workdir)
    with pytest.raises(ConfigError, match="differs at texts"):
        adapters.claim(other, workdir)


def test_what_cannot_work_is_said_first(config, tmp_path):
    other = config.copy_and_resolve_references()
    other.evaluate.detection.asked = ()
    with pytest.raises(DataError, match="detection.asked names no images"):
        detection.check(other)
    other.evaluate.detection.asked = _write(tmp_path, 3, 0, ("red", "green", "pink"))
    with pytest.raises(DataError, match=r"other classes \(blue, pink\)"):
        detection.check(other)
