"""Captioning over made-up words and a made-up language model that copies: rows, controls, report,
and named errors.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.captions import CaptionedImages
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import codebook, evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.report.tables import render
from v2l_jax.representations.base import shown_text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.run import features, loading
from v2l_jax.tasks import captioning
from v2l_jax.tasks.captioning import caption_prompt, draw_episodes, make_prompts
from v2l_jax.tasks.harness.answers import WrittenLine
from v2l_jax.towers.image_text import ImageTextTower

NAMES = tuple(f"animal{i}" for i in range(24))


def sentence(name):
    return f"This is one small {name} here."


@pytest.fixture
def stamps(tmp_path):
    """24 pictures, each with a caption of its own."""
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((9, 9, 3), 10 * i, np.uint8)).save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text(f"{sentence(name)}\nde.utf8=Ein Tier.\n")
    return tmp_path


@pytest.fixture
def config(stamps):
    config = get_config()
    config.evaluate.tasks = ("captioning",)
    config.representation.v2l_words.single_words = False
    config.evaluate.captioning = ConfigDict(
        dict(
            source="stamps", annotations="", images=str(stamps), name="animals", queries=10,
            examples=12, shots=3, tokens=2,
            max_new_tokens=9, controls=("no_tokens", "shuffled"), pictures=2,
        )
    )  # fmt: skip
    return config


class _Copying(LLMEngine):
    """A engine that answers with the caption of the examples, about the first word of the query."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompts, self.checked = tokenizer, [], 0

    def check_lengths(self, prompts, new_tokens):
        self.checked += len(prompts)

    def generate_text(self, prompts, max_new_tokens, *, stop_strings, stop_ids, description):
        assert self.checked and max_new_tokens == 9 and stop_strings.strings == ("\n", "###")
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.prompts += texts
        words = [text.rpartition("< ")[2].split(" ")[0] for text in texts]
        return [f" {sentence(word or 'thing')}" for word in words]


@pytest.fixture(scope="module")
def tokenizer(asset):
    return load_text_tokenizer(asset("smollm2-135m-instruct"))


@pytest.fixture
def run(config, tokenizer, monkeypatch, tmp_path_factory):
    """A run whose pictures lie on their own word's vector; a caption's vector is the sum of its
    words'.
    """
    workdir = tmp_path_factory.mktemp("run")
    vectors = np.eye(24, dtype=np.float32)
    texts = tuple(f" {name}" for name in NAMES)
    Codebook(vectors, texts, ((5,),) * 24, "made up", "a tokenizer").save(
        codebook.global_path(workdir)
    )

    def of_pictures(config, workdir, name, source):
        return np.stack([vectors[int(path[-6:-4])] for path in source.paths])

    def of_texts(texts, batch_size):
        return np.asarray(
            [[name in text.rstrip(".").split(" ") for name in NAMES] for text in texts], np.float32
        )

    tower = ImageTextTower("made up", "conse", 9, 24, None, np.asarray, lambda p, x: x, of_texts)
    monkeypatch.setattr(features, "cached", of_pictures)
    monkeypatch.setattr(loading, "image_text_tower", lambda config: tower)
    monkeypatch.setattr(
        loading, "text_tokenizer", lambda config: SimpleNamespace(fingerprint="a tokenizer")
    )
    made = evaluate.open_run(config, workdir)
    made.__dict__["llm"] = SimpleNamespace(tokenizer=tokenizer)
    made.__dict__["engine"] = _Copying(tokenizer)
    return made


def rows_of(run):
    return {
        (r.measured_on["control"], r.metric): r for r in read_results(run.workdir / "results.json")
    }


def test_captions_are_scored_with_the_controls_beside_them(run):
    evaluate_all(run)
    rows = rows_of(run)
    assert {control for control, _ in rows} == {
        "none",
        "no_tokens",
        "shuffled",
        "nearest_word",
        "reference",
    }
    assert all(row.count == 10 and row.measured_on["dataset"] == "animals" for row in rows.values())
    assert rows["none", "cider"].value == pytest.approx(10)
    assert rows["none", "bleu_4"].value == pytest.approx(1, abs=1e-6) and rows[
        "none", "rouge_l"
    ].value == pytest.approx(1)
    assert (
        rows["none", "conse_score"].value
        == rows["reference", "conse_score"].value
        == pytest.approx(1)
    )
    for control in ("no_tokens", "shuffled"):
        assert (
            rows[control, "rouge_l"].value == pytest.approx(5 / 6)
            and rows[control, "conse_score"].value == 0
        )
        assert rows[control, "cider"].value < 5
    assert (
        rows["nearest_word", "conse_score"].value == pytest.approx(1)
        and rows["nearest_word", "bleu_4"].value < 0.01
    )
    assert ("reference", "cider") not in rows


def evaluate_all(run):
    captioning.measure(run, captioning.settings(run.config))


def test_prompts_show_three_other_pictures_and_end_where_the_caption_begins(run):
    evaluate_all(run)
    assert len(run.engine.prompts) == run.engine.checked == 30
    for text in run.engine.prompts[:10]:
        *shots, query = text.split("###\n")[1:]
        assert len(shots) == 3 and query.endswith(" >\nOutput:")
        asked = query.split(" ")[2]
        for shot in shots:
            name = shot.split(" ")[2]
            assert (
                name.startswith("animal")
                and name != asked
                and shot.endswith(f"Output: {sentence(name)}\n")
            )
    assert all("< " + " >\nOutput:" in text for text in run.engine.prompts[10:20])


def test_words_come_from_all_candidates_where_asked(run):
    chosen = Codebook.load(codebook.global_path(run.workdir))
    chosen.save(codebook.candidates_path(run.workdir))
    chosen.take(np.arange(2)).save(codebook.global_path(run.workdir))
    run.config.representation.v2l_words.vocabulary = "candidates"
    run.config.codebook.merge_spellings = False
    evaluate_all(run)
    assert rows_of(run)["nearest_word", "conse_score"].value == pytest.approx(1)


def test_only_what_is_missing_is_measured(run):
    evaluate_all(run)
    assert evaluate.is_done(run.config, run.workdir)
    run.config.evaluate.captioning.shots = 4
    assert len(evaluate._missing(run.config, "captioning", run.workdir)) == 5


def test_section_shows_pictures_with_caption_and_truth(run):
    evaluate_all(run)
    run.config.evaluate = ConfigDict()  # the report is also made with configs of other tasks
    section = captioning.section(run, read_results(run.workdir / "results.json"))
    assert len(section.tables) == 1 and len(section.tables[0].rows) == 5
    (pictures,) = section.galleries[0].rows
    assert len(pictures) == 2 and pictures[0].image.shape == (9, 9, 3)
    caption, truth, words = pictures[0].caption.split("\n")
    assert truth == f"truth: {caption}" and words.startswith("words: animal")
    assert section.examples[0].answer == f" {section.examples[0].expected}"


def test_coco_is_read_where_named(config, tmp_path_factory):
    c = config.evaluate.captioning
    content = {
        "images": [{"id": i, "file_name": f"{i:02}.png"} for i in range(24)],
        "annotations": [
            {"image_id": i, "caption": f"{word} {name}"}
            for i, name in enumerate(NAMES)
            for word in ("a", "the")
        ],
    }
    path = tmp_path_factory.mktemp("coco") / "captions.json"
    path.write_text(json.dumps(content))
    c.source, c.annotations = "coco", str(path)
    captioning.check(config)
    c.annotations = ""
    with pytest.raises(ConfigError, match="annotations must name"):
        captioning.check(config)
    c.annotations = str(path) + ".gone"
    with pytest.raises(DataError, match="no caption file"):
        captioning.check(config)


def test_too_few_examples_are_refused_before_anything_runs(config):
    config.evaluate.captioning.shots = 20
    with pytest.raises(DataError, match="20 examples are asked"):
        captioning.check(config)


def test_a_wrong_option_is_named(config):
    config.evaluate.captioning.source = "flickr"
    with pytest.raises(ConfigError, match="captioning.source is 'flickr'"):
        experiment.check(config)


EXAMPLES = [(f"caption {i}.", f"text {i}.") for i in range(12)]
QUERIES = [("Caption 3.",), ("of its own", "TEXT 7.")]


def shown(prompt):
    return shown_text(prompt, lambda ids: "")


def test_prompt_is_the_papers():
    shots = [(word_texts([" cat", " tabby"]), "A cat."), (word_texts([" dog"]), "A dog runs.")]
    assert shown(caption_prompt(shots, word_texts([" pizza", " crust"]))) == (
        "###\nInput: < cat tabby >\nOutput: A cat.\n###\nInput: < dog >\nOutput: A dog runs.\n"
        "###\nInput: < pizza crust >\nOutput:"
    )


def test_no_example_shows_a_caption_of_the_query():
    for seed in range(30):
        episodes = draw_episodes(QUERIES, EXAMPLES, shots=11, seed=seed)
        for episode, hidden in zip(episodes, (3, 7), strict=True):
            drawn = [index for index, _ in episode.shots]
            assert sorted(drawn) == [i for i in range(12) if i != hidden]
            assert all(caption in EXAMPLES[index] for index, caption in episode.shots)


def test_draw_is_by_seed_and_does_not_change_with_the_other_queries():
    one = draw_episodes(QUERIES, EXAMPLES, 4, seed=1)
    assert one == draw_episodes([*QUERIES, ("another",)], EXAMPLES, 4, seed=1)[:2]
    assert one != draw_episodes(QUERIES, EXAMPLES, 4, seed=2)
    captions = {
        caption
        for seed in range(20)
        for episode in draw_episodes(QUERIES, EXAMPLES, 4, seed)
        for _, caption in episode.shots
    }
    assert any(c.startswith("text") for c in captions) and any(
        c.startswith("caption") for c in captions
    )


def test_too_few_examples_are_named():
    with pytest.raises(
        DataError, match="12 examples are asked, but there are 11 images with another caption"
    ):
        draw_episodes(QUERIES, EXAMPLES, 12, seed=0)


def test_prompts_show_what_is_written_of_each_image():
    asked = [word_texts([f"q{i}"]) for i in range(2)]
    examples = [word_texts([f"e{i}"]) for i in range(12)]
    episodes = draw_episodes(QUERIES, EXAMPLES, 3, 0)
    for prompt, episode in zip(make_prompts(episodes, asked, examples), episodes, strict=True):
        shots = [
            f"###\nInput: < e{index} >\nOutput: {caption}\n" for index, caption in episode.shots
        ]
        assert shown(prompt) == "".join(shots) + f"###\nInput: < q{episode.query} >\nOutput:"


def test_captions_follow_the_examples_and_are_one_line(asset, tokenizer):
    sizes, params = load_llama(asset("smollm2-135m-instruct"))
    engine = LLMEngine(Llama(sizes), params)
    names = ("cat", "dog", "pizza", "car", "tree")
    shots = [(word_texts([f" {name}"]), f"This picture shows a {name}.") for name in names]
    asked = ("horse", "boat", "apple")
    prompts = [caption_prompt(shots, word_texts([f" {name}"])) for name in asked]
    how = WrittenLine(16, captioning.STOP_STRINGS)
    assert how.answer(engine, tokenizer, prompts, "") == [
        f" This picture shows {'an' if name[0] in 'aeiou' else 'a'} {name}." for name in asked
    ]
    cut = WrittenLine(3, captioning.STOP_STRINGS).answer(engine, tokenizer, prompts[:1], "")
    assert cut == [" This picture shows"]


def test_a_captioned_set_draws_from_itself():
    source = CaptionedImages(("a.png", "b.png", "c.png"), (("one",), ("two",), ("one", "three")))
    (episode,) = draw_episodes(source.captions[:1], source.captions, 1, seed=0)
    assert episode.shots == ((1, "two"),)


FIELDS = dict(dataset="stamps", llm="m", tower="t", shots=10, tokens=21, representation="words")


def rows(kind, **changes):
    made = []
    for control, value in (
        ("reference", 0.9),
        ("shuffled", 0.1),
        ("none", 0.3),
        ("nearest_word", 0.25),
        ("no_tokens", 0.05),
    ):
        fields = FIELDS | changes | {"control": control}
        metrics = ("cider", "bleu_4", "rouge_l") if control != "reference" else ()
        made += [
            Result(metric, value, 60, (value - 0.02, value + 0.02), fields)
            for metric in (*metrics, f"{kind}_score")
        ]
    return made


def test_controls_stand_in_order_and_the_true_caption_has_a_cosine_alone():
    (table,) = render(rows("conse"), captioning.TABLE)
    assert table.head == ("", "CIDEr", "BLEU-4", "ROUGE-L", "ConSE score")
    assert [row[0].partition(":")[0] for row in table.rows] == [
        "The picture's words",
        "Control",
        "Control",
        "Control",
        "The true caption",
    ]
    assert table.rows[0][1:] == ("0.300\n0.280–0.320",) * 3 + ("0.3000\n0.2800–0.3200",)
    assert table.rows[2][1].startswith("0.100") and table.rows[3][1].startswith("0.250")
    assert table.rows[4][1:] == ("–", "–", "–", "0.9000\n0.8800–0.9200")
    assert (
        table.caption.startswith("stamps: 60 pictures")
        and "10 examples, 21 words a picture; words; m, t" in table.caption
    )


def test_a_table_for_each_setting():
    few, many = render(rows("clip") + rows("clip", shots=2), captioning.TABLE)
    assert few.head[4] == many.head[4] == "CLIP score"
    assert "2 examples" in few.caption and "10 examples" in many.caption
