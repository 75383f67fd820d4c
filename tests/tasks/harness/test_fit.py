"""Prompts that cannot fit, and files that are missing, are refused before the first job."""

import json

import pytest
from PIL import Image

from tests.tiny_config import get_config
from v2l_jax.errors import DataError, V2LError
from v2l_jax.jobs import runner
from v2l_jax.llm.llama import load_llama, read_sizes
from v2l_jax.representations.base import Text
from v2l_jax.run import loading
from v2l_jax.tasks import tasks
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written

LONG = {
    "few_shot": {"shots": (2,), "repetitions": 300, "controls": ()},
    "zero_shot": {"tokens": 8190},
    "open_ended": {"tokens": 3000},
    "token_choice": {"tokens": 3000},
    "classification": {"tokens": 8190},
    "captioning": {"tokens": 3000},
    "vqa": {"tokens": 3000},
    "detection": {"objects": 900},
    "denoising": {"rates": (0.5,) * 900},
    "progressive": {"rates": (0.5,) * 200},
    "restoration": {},  # its model is what is too large
}
"""For each task that asks a language model, what makes its prompts too long."""
FILES = {
    "few_shot": {"episode_file": "no/{ways}_{shots}.csv", "episode_photos": "no"},
    "open_ended": {"file": "no/{ways}_{shots}.json"},
    "captioning": {"source": "coco", "annotations": "no/captions.json", "images": "no"},
    "vqa": {"sets": ("vqa_v2",)},
    "detection": {"asked": ("no/instances.json", "no")},
    "denoising": {"inception": "no/inception.pth"},
    "reconstruction": {"inception": "no/inception.pth"},
}
"""For each task that reads files of its own, files that are not there."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eight pictures with a description and a box each, as Tux Paint and COCO have them."""
    folder = tmp_path_factory.mktemp("pictures")
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(8)]
    boxes = [{"image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(8)]
    for image in images:
        Image.new("RGB", (8, 8)).save(folder / image["file_name"])
        (folder / f"{image['id']}.txt").write_text(f"Thing number {image['id']}.")
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def config(asset, pictures):
    """Every task with two images or so, and nothing to refuse."""
    config = get_config()
    config.jobs = ("codebook", "evaluate")
    evaluate, set_of_boxes = config.evaluate, (str(pictures / "instances.json"), str(pictures))
    evaluate.captioning.update({"source": "stamps", "images": str(pictures), "shots": 3})
    evaluate.captioning.update({"queries": 2, "examples": 6})
    evaluate.detection.update({"asked": set_of_boxes, "shown": set_of_boxes, "objects": 4})
    evaluate.vqa.update({"sets": ("coco_qa",), "shots": 2, "questions": 4})
    evaluate.open_ended.update({"shots": (1,), "questions": 4})
    evaluate.token_choice.update({"ways": (2,), "episodes": 4})
    for task in ("denoising", "progressive", "restoration"):
        evaluate[task].images = 2
    return config


def _chosen(config, task):
    config.evaluate.tasks = (task,)
    if task == "progressive":
        config.model.kind = "spae"
    if task in ("restoration", "detection", "classification"):
        config.finetune.task = task
    return config


def test_every_task_is_here():
    without_prompts = {"reconstruction", "semantic_quality"}
    assert set(LONG) == set(tasks()) - without_prompts and set(FILES) < set(tasks())


@pytest.mark.parametrize("task", LONG)
def test_nothing_is_run_where_prompts_cannot_fit(config, tmp_path, task):
    tasks()[task].check(_chosen(config, task))
    config.evaluate[task].update(LONG[task])
    if task == "restoration":
        config.model.image_size, config.model.channel_multipliers = 128, (1,)
    with pytest.raises(
        DataError, match="a prompt has at least .* but smollm2.* reads 8192"
    ) as error:
        runner.run_jobs(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "codebook").exists()


@pytest.mark.parametrize("task", FILES)
def test_nothing_is_run_where_files_are_missing(config, tmp_path, task):
    _chosen(config, task).evaluate[task].update(FILES[task])
    if task == "vqa":
        config.evaluate.vqa.vqa_v2.asked = ("no/questions.json", "no/annotations.json", "no")
    with pytest.raises(V2LError, match="'no'|no/") as error:
        runner.run_jobs(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "codebook").exists()


def test_the_longest_of_all_prompts_is_looked_at(config):
    """Prompts of the drawn episodes, not of the shortest names there are."""
    prompts = [(Text("short"),), (Text("word " * 9000),), (Text("a little longer"),)]
    with pytest.raises(DataError, match="task: a prompt has at least 900"):
        check_prompts_fit(config, "task", prompts)
    check_prompts_fit(config, "task", prompts[::2])


def test_more_images_than_are_held_out_are_refused(config):
    for task in ("denoising", "progressive", "restoration"):
        _chosen(config, task).evaluate[task].images = 10_000
        with pytest.raises(DataError, match=f"{task}.images asks for 10000 held-out"):
            tasks()[task].check(config)


def test_other_representations_have_no_known_length(config):
    assert least_written(config, 3)[0].ids == (0, 0, 0)
    config.representation.v2l_words.adaptive = 0.5
    assert least_written(config, 3)[0].ids == (0,)
    config.representation.kind = "caption"
    assert least_written(config, 3) == ()
    config.representation.kind = "frozen"
    assert len(least_written(config, 3)[0].ids) == config.representation.frozen.slots


def test_sizes_are_read_without_weights(config, asset):
    path = asset("smollm2-135m-instruct")
    assert read_sizes(path) == load_llama(path)[0]
    assert loading.context_length(config) == 8192
