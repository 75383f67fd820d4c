"""Zero-shot classification by a made-up reader that knows which words belong to a class."""

import numpy as np
import pytest

from tests.tasks.reading_run import WORDS, reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.metrics.results import read_results, wilson_interval
from v2l_jax.representations.base import shown_text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.tasks import zero_shot


class Knowing(LLMEngine):
    """Knows each class's words, and prefers "steak" by more than that unless it is calibrated."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked = tokenizer, []

    def check_lengths(self, prompts, new_tokens):
        assert len(prompts) == len(new_tokens)

    def score_continuations(self, prompts, candidates, description):
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.asked.append(texts)
        shown = [set(text.split("Input: < ")[1].split(" >")[0].split()) for text in texts]
        names = [[self.tokenizer.decode(ids).strip() for ids in some] for some in candidates]
        known = {name: {word.strip() for word in words} for name, words in WORDS.items()}
        return [
            np.array([len(words & known[name]) + 9 * (name == "steak") for name in some], float)
            for words, some in zip(shown, names, strict=True)
        ]


@pytest.fixture
def run(asset, tmp_path, monkeypatch):
    config = get_config()
    config.evaluate.tasks = ("zero_shot",)
    config.evaluate.zero_shot.images = 25
    experiment.check(config)
    made = reading_run(config, tmp_path, monkeypatch)
    made.__dict__["engine"] = Knowing(made.llm.tokenizer)
    return made


def rows_of(run):
    zero_shot.measure(run, zero_shot.settings(run.config))
    return {r.measured_on["control"]: r for r in read_results(run.workdir / "results.json")}


def test_the_prompt_names_the_classes_and_shows_no_example():
    prompt = zero_shot.prompt(word_texts([" kit", "ten"]), ("dog", "cat"))
    assert shown_text(prompt, str) == (
        "For each of the following input output pairs, output is one of ['cat' or 'dog']\n"
        "###\nInput: < kitten >\nOutput:"
    )


def test_words_are_read_and_controls_are_not(run):
    rows = rows_of(run)
    assert rows["none"].value == 1.0 and rows["none"].count == 25
    assert rows["none"].ci95 == pytest.approx(wilson_interval(25, 25))
    _, labels, names = zero_shot.chosen(run.config, run.photos)
    first = np.mean([names[label] == names[0] for label in labels])
    assert rows["no_tokens"].value == pytest.approx(first)  # all names are equally likely there
    assert rows["shuffled"].value < 0.7
    assert all(row.measured_on["classes"] == 3 for row in rows.values())
    asked = [len(texts) for texts in run.engine.asked]
    assert asked[1] == 2, "prompts without words are one, and so are those without content"


def test_without_calibration_the_prior_decides(run):
    run.config.evaluate.zero_shot.update(calibrate=False, controls=())
    _, labels, names = zero_shot.chosen(run.config, run.photos)
    share = np.mean([names[label] == "steak" for label in labels])
    assert rows_of(run)["none"].value == pytest.approx(share)


def test_held_out_images_are_asked_by_the_seed(run):
    indices, labels, names = zero_shot.chosen(run.config, run.photos)
    first = len(run.photos.train)
    assert len(set(indices.tolist())) == 25 and indices.min() >= first
    assert labels.tolist() == [int(run.photos.held_out.labels[i - first]) for i in indices]
    run.config.seed = 1
    assert set(zero_shot.chosen(run.config, run.photos)[0].tolist()) != set(indices.tolist())


def test_its_part_of_the_report_has_a_row_for_each_control(run):
    rows_of(run)
    section = zero_shot.section(run, read_results(run.workdir / "results.json"))
    (table,) = section.tables
    assert [row[0].split("\n")[1] for row in table.rows] == [
        "the image's words",
        "control: no words",
        "control: another image's words",
    ]
    assert table.rows[0][1].startswith("100.0\n") and "over 3 classes" in table.caption


def test_one_class_is_refused(run):
    run.config.data.rename_classes = {"steak": "pizza", "sushi": "pizza"}
    with pytest.raises(DataError, match="1 classes"):
        evaluate.check(run.config)
    run.config.evaluate.zero_shot.controls = ("random",)
    with pytest.raises(ConfigError, match="zero_shot.controls"):
        experiment.check(run.config)
