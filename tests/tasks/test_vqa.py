"""The question-answering evaluator on real questions and pictures, with a made-up codebook and a
language model that knows.
"""

import hashlib
import re
import types

import numpy as np
import pytest

from configs import vqa as vqa_config
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.questions import Question
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.metrics.results import Result, read_results, wilson_interval, write_results
from v2l_jax.report.tables import render
from v2l_jax.representations.base import shown_text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.run import features, loading
from v2l_jax.tasks import vqa
from v2l_jax.tasks.vqa import Asked, make_prompts, question_prompt

WORDS = 60


class Knowing(LLMEngine):
    """Knows every answer, and says it where the prompt shows a picture's words; else it takes the
    first candidate. Keeps what it was asked.
    """

    def __init__(self, tokenizer, questions, context=100_000):
        self.tokenizer, self.context = tokenizer, context
        self.truth = {f"Question: {q.text.removesuffix('?')}? Answer:": q.answer for q in questions}
        self.asked = []

    def check_lengths(self, prompts, new_tokens):
        new = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else new_tokens
        if any(len(p) + n > self.context for p, n in zip(prompts, new, strict=True)):
            raise DataError("too long")

    def generate_text(self, prompts, max_new_tokens, *, stop_strings, description, stop_ids):
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.asked.append(texts)
        last = [text.splitlines()[-1] for text in texts]
        return [
            f" {self.truth[line[line.index('Question:') :]]}"
            if line.startswith("Condition: ")
            else " nothing"
            for line in last
        ]

    def score_continuations(self, prompts, candidates, description):
        answers = self.generate_text(prompts, 1, stop_strings=None, description="", stop_ids=())
        written = [[self.tokenizer.decode(c) for c in group] for group in candidates]
        return [
            np.array([text == f"{answer}\n" for text in texts], np.float32)
            for answer, texts in zip(answers, written, strict=True)
        ]


def _config(**changes):
    config = get_config()
    config.evaluate.tasks = ("vqa",)
    config.evaluate.vqa = vqa_config.get_config().evaluate.vqa
    config.representation = vqa_config.get_config().representation
    config.evaluate.vqa.update(dict(sets=("coco_qa",), shots=3, tokens=4, pictures=2) | changes)
    experiment.check(config)
    return config


@pytest.fixture
def make_run(asset, tmp_path, monkeypatch):
    """Makes a run of a config in one folder, over made-up words and vectors."""
    asset("coco-qa-sample")

    def vectors(config, workdir, name, source):
        seeds = [int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) for path in source.paths]
        return np.stack([np.random.default_rng(seed).standard_normal(8) for seed in seeds]).astype(
            np.float32
        )

    monkeypatch.setattr(features, "cached", vectors)

    def make(config, context=100_000):
        run, tokenizer = evaluate.open_run(config, tmp_path), loading.text_tokenizer(config)
        rng = np.random.default_rng(0)
        ids = tuple((int(i),) for i in rng.choice(np.arange(1000, 9000), WORDS, replace=False))
        texts = tuple(f" w{i}" for i in range(WORDS))
        book = Codebook(
            rng.standard_normal((WORDS, 8)).astype(np.float32),
            texts,
            ids,
            "made up",
            tokenizer.fingerprint,
        )
        asked = [
            question
            for name in config.evaluate.vqa.sets
            for question in vqa.read_set(config, name).asked
        ]
        run.__dict__.update(
            global_words=book,
            llm=types.SimpleNamespace(tokenizer=tokenizer),
            engine=Knowing(tokenizer, asked, context),
        )
        return run

    return make


def test_every_question_is_asked_once_a_way_and_control(make_run):
    run = make_run(_config())
    vqa.measure(run, vqa.settings(run.config))
    rows = read_results(run.workdir / "results.json")
    whole = {
        (r.measured_on["answering"], r.measured_on["control"]): r
        for r in rows
        if r.measured_on["answer_type"] == "all"
    }
    assert {key: (row.value, row.count) for key, row in whole.items()} == {
        ("open", "none"): (1.0, 20), ("open", "no_tokens"): (0.0, 20), ("open", "shuffled"): (1.0,
        20),
        ("closed", "none"): (1.0, 20), ("closed", "no_tokens"): (0.05, 20), ("closed",
        "shuffled"): (1.0, 20),
    }  # fmt: skip
    assert whole["open", "none"].ci95 == pytest.approx(wilson_interval(20, 20))
    types = {
        r.measured_on["answer_type"]: r.count for r in rows if r.measured_on["control"] == "none"
    }
    assert types == {"all": 20, "object": 13, "color": 5, "location": 2}
    assert all(
        r.measured_on["dataset"] == "COCO-QA sample" and r.measured_on["task"] == "vqa"
        for r in rows
    )


def test_prompts_show_other_pictures_and_their_own_words(make_run):
    run = make_run(_config(answering=("open",)))
    vqa.measure(run, vqa.settings(run.config))
    real, without, shuffled = run.engine.asked
    asked = vqa.read_set(run.config, "coco_qa").asked
    conditions = lambda texts: [
        re.findall(r"Condition: (.*?)\. Question: (.*?)\?", text) for text in texts
    ]
    words = {question: shown for (*_, (shown, question)) in conditions(real)}
    assert len(set(words.values())) == 20 and all(
        len(shown.split()) == 4 for shown in words.values()
    )
    for question, text, pairs in zip(asked, real, conditions(real), strict=True):
        assert len(pairs) == 4 and pairs[-1][1] == question.text and text.endswith("Answer:")
        assert question.text not in [other for _, other in pairs[:-1]]
        assert all(words[other] == shown for shown, other in pairs)
    assert without == [re.sub(r"Condition: .*?\. ", "", text) for text in real]
    moved = {question: shown for pairs in conditions(shuffled) for shown, question in pairs}
    assert sorted(moved.values()) == sorted(words.values()) and all(
        moved[q] != words[q] for q in words
    )


def test_only_what_is_missing_is_measured(make_run):
    run = make_run(_config(answering=("closed",)))
    vqa.measure(run, vqa.settings(run.config))
    path = run.workdir / "results.json"
    write_results(
        path, [row for row in read_results(path) if row.measured_on["control"] != "shuffled"]
    )
    missing = evaluate._missing(run.config, "vqa", run.workdir)
    assert [setting["control"] for setting in missing] == ["shuffled"]
    again = make_run(run.config)
    vqa.measure(again, missing)
    assert len(again.engine.asked) == 1 and not evaluate._missing(run.config, "vqa", run.workdir)


def test_prompts_that_do_not_fit_stop_before_any_answer(make_run):
    run = make_run(_config(), context=60)
    with pytest.raises(DataError, match="too long"):
        vqa.measure(run, vqa.settings(run.config))
    assert not run.engine.asked and not (run.workdir / "results.json").exists()


def test_large_sets_are_sampled_and_similar_questions_shown(asset, make_run, monkeypatch):
    asset("easy-vqa")
    config = _config(
        sets=("easy_vqa",),
        questions=12,
        shown_questions=300,
        shot_choice="similar",
        answering=("open",),
        controls=(),
    )
    run = make_run(config)

    class Tower:
        """Encodes a text as the set of its words."""

        def encode_texts(self, texts, batch_size):
            words = sorted({word for text in texts for word in text.split()})
            vectors = np.array(
                [[word in text.split() for word in words] for text in texts], np.float32
            )
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    run.__dict__["tower"] = Tower()
    vqa.measure(run, vqa.settings(config))
    questions = vqa.read_set(config, "easy_vqa")
    assert (
        len(questions.asked),
        len(questions.shown),
        len({q.image for q in questions.asked}),
    ) == (12, 300, 12)
    assert len(questions.answers) == 13
    for question, text in zip(questions.asked, run.engine.asked[0], strict=True):
        nearest = text.splitlines()[-2].split("Question: ")[1].split("? Answer")[0].split()
        own = question.text.removesuffix("?").split()
        assert len(set(nearest) & set(own)) >= len(set(own)) - 1


def test_the_section_has_tables_pictures_and_a_prompt(make_run):
    run = make_run(_config())
    vqa.measure(run, vqa.settings(run.config))
    section = vqa.section(run, [row for row in read_results(run.workdir / "results.json")])
    assert [len(table.rows) for table in section.tables] == [6]
    assert [len(gallery.rows[0]) for gallery in section.galleries] == [2, 2]
    picture = section.galleries[0].rows[0][0]
    assert "what is using umbrellas as a central theme\nsculpture ✓\nwords: w" in picture.caption
    assert max(picture.image.shape) == 320 and picture.image.dtype == np.uint8
    (example,) = section.examples
    assert (
        example.prompt.endswith("Answer:")
        and example.answer == " sculpture"
        and example.expected == "sculpture"
    )


def test_what_cannot_work_stops_before_anything_runs(asset, tmp_path):
    asset("coco-qa-sample")
    vqa.check(_config())
    with pytest.raises(DataError, match="20 examples were asked for, but only 19"):
        vqa.check(_config(shots=20))
    config = _config()
    config.evaluate.vqa.coco_qa.asked = (str(tmp_path),)
    with pytest.raises(DataError, match="no file .*questions.txt"):
        vqa.check(config)
    with pytest.raises(ConfigError, match="config.evaluate.vqa.answering"):
        _config(answering=("aloud",))


def words(*texts):
    return word_texts(texts)


def shown(prompt):
    return shown_text(prompt, lambda ids: "")


def _questions(images, texts=None):
    texts = texts or [f"question {i}" for i in range(len(images))]
    return [
        Question(f"{image}.jpg", text, ("yes",), "yes/no")
        for image, text in zip(images, texts, strict=True)
    ]


def test_the_prompt_is_the_published_one():
    shots = [
        (Asked(words(" cat", " kitten"), "what is it"), "cat"),
        (Asked(words(" bus"), "What color is it?"), "red"),
    ]
    query = Asked(words(" dog", " puppy"), "is it big?")
    assert shown(question_prompt(shots, query)) == (
        "Condition: cat kitten. Question: what is it? Answer: cat\n"
        "Condition: bus. Question: What color is it? Answer: red\n"
        "Condition: dog puppy. Question: is it big? Answer:"
    )


def test_without_words_nothing_tells_of_an_image():
    pool = list(
        zip([(), ()], [Question("a", "what is it", ("two", "2", "2"), "number"), *_questions("b")])
    )
    (prompt,) = make_prompts([((), _questions("c")[0])], pool, [(1, 0)])
    assert shown(prompt) == (
        "Question: question 0? Answer: yes\nQuestion: what is it? Answer: 2\n"
        "Question: question 0? Answer:"
    )


def test_shots_are_of_other_images_and_depend_on_their_query_alone():
    pool = _questions([i // 3 for i in range(30)])
    drawn = vqa.draw_shots(pool, pool, 27, seed=3)
    for query, shots in zip(pool, drawn, strict=True):
        assert len(set(shots)) == 27 and query.image not in {pool[j].image for j in shots}
    assert vqa.draw_shots(pool[:5], pool, 27, seed=3) == drawn[:5]
    assert vqa.draw_shots(pool[:5], pool, 2, seed=3) == [shots[:2] for shots in drawn[:5]]
    assert vqa.draw_shots(pool, pool, 27, seed=4) != drawn
    counts = np.bincount(
        np.concatenate([vqa.draw_shots(pool[:1], pool, 2, seed=s)[0] for s in range(1350)]),
        minlength=30,
    )
    assert (counts[:3] == 0).all() and (np.abs(counts[3:] - 100) < 45).all(), (
        "each of 27 is drawn about 100 times"
    )
    with pytest.raises(
        DataError, match=r"28 examples were asked for, but only 27 questions .* than 0.jpg"
    ):
        vqa.draw_shots(pool, pool, 28, seed=3)


def test_similar_shots_end_with_the_most_similar():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool, queries = (
        _questions([i % 20 for i in range(30)]),
        _questions([i % 20 for i in range(30, 40)]),
    )
    chosen = vqa.similar_shots(
        queries, pool, vectors[30:].astype(np.float32), vectors[:30].astype(np.float32), 4, seed=0
    )
    for i, shots in enumerate(chosen):
        ranked = sorted(
            (j for j in range(30) if pool[j].image != queries[i].image),
            key=lambda j: vectors[30 + i] @ vectors[j],
        )
        assert list(shots) == ranked[-4:]


def test_equal_questions_are_drawn_by_seed():
    vectors = np.ones((20, 1), np.float32)
    pool = _questions(range(20))
    chosen = [
        vqa.similar_shots(pool[:1], pool, vectors[:1], vectors, 3, seed=s)[0] for s in range(40)
    ]
    assert len(set(chosen)) > 30 and {j for shots in chosen for j in shots} == set(range(1, 20))


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return LLMEngine(Llama(config), params), load_text_tokenizer(path)


SHOTS = [
    (Asked(words(" cat", " kitten", " pet"), "what animal is it?"), "cat"),
    (Asked(words(" bus", " school", " yellow"), "what is the color of the bus?"), "yellow"),
    (Asked(words(" train", " rails", " station"), "what is on the tracks?"), "train"),
]
QUERIES = [
    (Asked(words(" pizza", " slice", " crust"), "what food is it?"), "pizza"),
    (Asked(words(" car", " red", " road"), "what is the color of the car?"), "red"),
    (Asked(words(" horse", " saddle", " farm"), "what is the cowboy riding?"), "horse"),
]
PROMPTS = [question_prompt(SHOTS, query) for query, _ in QUERIES]


def test_the_language_model_answers_from_obvious_words(smollm2):
    true = [answer for _, answer in QUERIES]
    ways = [
        vqa.answering(way, 3, 6, ["red", "pizza", "horse", "surfboard"]).answer(
            *smollm2, PROMPTS, ""
        )
        for way in ("open", "closed")
    ]
    assert ways == [[f" {answer}" for answer in true], true]


SETTING = {
    "dataset": "photos",
    "llm": "tiny",
    "tower": "conse",
    "shots": 4,
    "shot_choice": "random",
    "tokens": 21,
    "representation": "words",
}


def _row(value, count, answering="open", control="none", answer_type="all", **changes):
    fields = (
        SETTING | {"answering": answering, "control": control, "answer_type": answer_type} | changes
    )
    return Result("vqa_accuracy", value, count, (value - 0.1, value + 0.1), fields)


def test_rows_are_controls_and_columns_types():
    rows = [
        _row(0.5, 20),
        _row(0.25, 8, answer_type="color"),
        _row(0.3, 20, control="shuffled"),
        _row(0.75, 12, answer_type="number"),
    ]
    rows += [_row(0.8, 20, answering="closed")]
    (table,) = render(rows, vqa.TABLE)
    assert list(table.head) == ["", "All (20)", "Color (8)", "Number (12)"]
    assert [list(row) for row in table.rows] == [
        [
            "Open answers\nthe picture's words",
            "0.50\n0.40–0.60",
            "0.25\n0.15–0.35",
            "0.75\n0.65–0.85",
        ],
        ["Open answers\ncontrol: another picture's words", "0.30\n0.20–0.40", "–", "–"],
        ["Closed answers\nthe picture's words", "0.80\n0.70–0.90", "–", "–"],
    ]
    assert all(
        part in table.caption for part in ("photos", "examples: 4", "21 words", "tiny", "conse")
    )


def test_each_setting_has_its_table():
    rows = [
        _row(0.5, 20),
        _row(0.6, 20, dataset="shapes"),
        _row(0.7, 20, llm="large"),
        _row(0.4, 20, shot_choice="similar"),
    ]
    tables = {table.rows[0][1].splitlines()[0]: table.caption for table in render(rows, vqa.TABLE)}
    assert tables.keys() == {"0.50", "0.60", "0.70", "0.40"}
    assert "shapes" in tables["0.60"] and "large" in tables["0.70"]
    assert "most similar" in tables["0.40"] and "drawn" in tables["0.50"]
