"""Open-ended naming by a made-up reader that answers with the sentence of the likest example."""

import json
import re

import pytest

from tests.tasks.reading_run import reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.data.open_ended import OpenQuestion
from v2l_jax.jobs import evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.metrics.results import read_results
from v2l_jax.representations.base import Text, shown_text
from v2l_jax.tasks import open_ended


class Alike(LLMEngine):
    """Looks for the example that shares the most words with the image asked about."""

    def __init__(self, tokenizer, ending=""):
        self.tokenizer, self.ending, self.asked = tokenizer, ending, []

    def check_lengths(self, prompts, new_tokens):
        assert new_tokens == 16

    def generate_text(self, prompts, max_new_tokens, *, stop_strings, stop_ids, description):
        self.asked += [self.tokenizer.decode(prompt) for prompt in prompts]
        return [self._answer(text) for text in self.asked[-len(prompts) :]]

    def _answer(self, text):
        shots = re.findall(r"^(.*?) ?This is a (.*)\.$", text, re.MULTILINE)
        query = text.rsplit("\n", 1)[-1].removesuffix(" This is a")
        shared = [len(set(words.split()) & set(query.split())) for words, _ in shots]
        return f" {shots[shared.index(max(shared))][1]}{self.ending}"


@pytest.fixture
def run(asset, tmp_path, monkeypatch):
    config = experiment.complete(get_config())
    config.evaluate.tasks = ("open_ended",)
    config.evaluate.open_ended.update(questions=12, shots=(1, 3))
    context = reading_run(config, tmp_path, monkeypatch)
    vars(context)["engine"] = Alike(context.llm.tokenizer)
    return context


def _rows(run):
    rows = read_results(run.workdir / "results.json")
    return {tuple(r.measured_on[k] for k in ("names", "shots", "control")): r for r in rows}


def test_a_reader_of_images_is_right_and_controls_are_not(run):
    open_ended.check(run.config)
    open_ended.measure(run, open_ended.settings(run.config))
    rows = _rows(run)
    assert len(rows) == 2 * 2 * 3 and evaluate.is_done(run.config, run.workdir)
    for names in ("nonsense", "real"):
        assert rows[names, 3, "none"].value == 1.0
        assert rows[names, 3, "no_tokens"].value < 0.9
    assert "dax" in run.engine.asked[0] or "blicket" in run.engine.asked[0]
    section = open_ended.section(run, list(rows.values()))
    assert section is not None and len(section.tables) == 1


def test_a_name_that_goes_on_is_no_hit(run):
    vars(run)["engine"] = Alike(run.llm.tokenizer, ending="es")
    open_ended.measure(run, open_ended.settings(run.config)[:1])
    assert [row.value for row in _rows(run).values()] == [0.0]


def test_the_prompt():
    question = OpenQuestion(((1, "This is a dax."), (0, "This is a perpo.")), 2, "This is a", "dax")
    written = [(Text("sea fish"),), (Text("oven"),), (Text("bread"),)]
    text = shown_text(open_ended.prompt(question, written), str)
    assert text == "oven This is a dax.\nsea fish This is a perpo.\nbread This is a"
    twice = shown_text(open_ended.prompt(question, written, 1), str)
    assert twice.count("dax") == 2 and twice.endswith("\nbread This is a")


def test_published_questions_are_asked(run, tmp_path):
    photos, folder = run.photos.train, tmp_path / "open_ended_mi"
    folder.mkdir()
    paths = [[], []]
    for i in range(len(photos)):
        if photos.labels[i] < 2:
            paths[photos.labels[i]].append(photos[i]["path"])
    a, b, asked = paths[0][0], *paths[1][:2]
    record = {"image_1": a, "caption_1": "This is a dax.", "image_2": b}
    record |= {"caption_2": "This is a perpo.", "question": "This is a", "question_image": asked}
    (folder / "s1w2.json").write_text(json.dumps([record | {"answer": "perpo"}]))
    run.config.evaluate.open_ended.update(shots=(1,), controls=())
    run.config.evaluate.open_ended.file = str(folder / "s{shots}w{ways}.json")
    open_ended.measure(run, open_ended.settings(run.config))
    assert [(k[0], r.value) for k, r in _rows(run).items()] == [("file", 1.0)]
