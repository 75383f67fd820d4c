"""Prompts that cannot fit the language model are refused before the first job."""

import pytest

from tests.tiny_config import get_config
from v2l_jax.errors import DataError
from v2l_jax.jobs import runner
from v2l_jax.llm.llama import load_llama, read_sizes
from v2l_jax.run import loading
from v2l_jax.tasks import tasks
from v2l_jax.tasks.harness.fit import least_written

LONG = {
    "few_shot": {"shots": (2,), "repetitions": 300, "controls": ()},
    "zero_shot": {"tokens": 8190},
    "denoising": {"rates": (0.5,) * 900},
}


@pytest.fixture
def config(asset):
    config = get_config()
    config.jobs = ("codebook", "evaluate")
    return config


@pytest.mark.parametrize("task", LONG)
def test_nothing_is_run_where_prompts_cannot_fit(config, tmp_path, task):
    config.evaluate.tasks = (task,)
    config.evaluate.denoising.images = 2
    tasks()[task].check(config)
    config.evaluate[task].update(LONG[task])
    with pytest.raises(
        DataError, match="a prompt has at least .* but smollm2.* reads 8192"
    ) as error:
        runner.run_jobs(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "codebook").exists()


def test_too_many_words_for_the_second_grid_are_refused(config):
    config.model.image_size, config.model.channel_multipliers = 128, (1,)
    config.evaluate.tasks, config.finetune.task = ("restoration",), "restoration"
    config.evaluate.restoration.images = 2
    with pytest.raises(DataError, match="restoration: a prompt has at least 327"):
        tasks()["restoration"].check(config)


def test_other_representations_have_no_known_length(config):
    assert least_written(config, 3)[0].ids == (0, 0, 0)
    config.representation.kind = "caption"
    assert least_written(config, 3) == ()


def test_sizes_are_read_without_weights(config, asset):
    path = asset("smollm2-135m-instruct")
    assert read_sizes(path) == load_llama(path)[0]
    assert loading.context_length(config) == 8192
