"""Images to visual words to a fine-tuned language model to accuracies, on tiny networks; and what
is refused before anything is trained.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_visual_words import COLOURS, PER_CLASS, get_config
from v2l_jax.codebook.kmeans_variants import fit_in_batches
from v2l_jax.codebook.visual_vocabulary import VisualVocabulary, prepared
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import finetune, runner, vocabulary
from v2l_jax.llm.peft_files import load_new_rows
from v2l_jax.llm.training_texts import TextBatches
from v2l_jax.metrics.results import read_results
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.visual_words import kmeans_of, vocabulary_path
from v2l_jax.representations.visual_words_page import coloured, nearest_texts
from v2l_jax.representations.word_rows import nearest_patches
from v2l_jax.run import adapters, loading
from v2l_jax.run.patches import PatchFeatures
from v2l_jax.run.run import Run
from v2l_jax.tasks import classification
from v2l_jax.tasks.harness import tuned
from v2l_jax.tasks.harness.looked_at import heat
from v2l_jax.tasks.harness.prompts import encode

HELD_OUT = round(0.4 * PER_CLASS) * len(COLOURS)
VOCABULARY = 49152


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    return get_config(asset, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    runner.run_jobs(config, workdir)
    return workdir


@pytest.fixture
def changed(config):
    """A copy of the config to change."""
    return config.copy_and_resolve_references()


def _value(workdir, metric, state, control):
    (found,) = [
        row.value
        for row in read_results(workdir / "results.json")
        if row.metric == metric
        and (row.measured_on["llm_state"], row.measured_on["control"]) == (state, control)
    ]
    return found


def test_colours_are_learnt_and_read_off_the_words(workdir):
    assert _value(workdir, "top1_accuracy", "tuned", "none") == 1
    assert _value(workdir, "mean_class_accuracy", "tuned", "none") == 1
    for control in ("no_tokens", "shuffled"):
        assert _value(workdir, "top1_accuracy", "tuned", control) <= 0.67
    assert _value(workdir, "visual_tokens", "tuned", "none") == 4 + 2
    assert _value(workdir, "visual_tokens", "tuned", "no_tokens") == 0
    # 9 rows of 16; in 2 layers at rank 2 from 16 to 16 and to 8
    assert _value(workdir, "trained_parameters", "tuned", "none") == 9 * 16 + 2 * 2 * (32 + 24)
    assert _value(workdir, "training_flops", "tuned", "none") > 0
    assert _value(workdir, "tokenize_seconds", "tuned", "none") > 0
    for name in ("bag_of_words", "mean_features"):  # a colour is read off either
        assert _value(workdir, "top1_accuracy", "no_llm", name) > 0.9
    page = (workdir / "report.html").read_text()
    assert "linear probe of mean features" in page and "Trained parameters, M" in page
    assert "Naming by likelihood" in page and "fine-tuned" in page
    assert "Patches coloured by visual word" in page
    assert "Patches of photos become visual words" in page
    for other_road in ("ConSE", "Training the tokenizer", "job makes this section"):
        assert other_road not in page


def test_patches_are_coloured_by_word():
    grey = np.full((8, 8, 3), 100, np.uint8)
    shown = coloured(grey, [(0, (0, 3)), (1, (1,))], (2, 2))
    np.testing.assert_array_equal(shown[1, 1], shown[5, 5])  # one word, one colour
    assert (shown[1, 1] != shown[1, 5]).any()
    np.testing.assert_array_equal(shown[5, 1], [100, 100, 100])  # a patch of no word
    np.testing.assert_array_equal(shown[0, 0], [255, 255, 255])


def test_where_answers_look(config, workdir):
    """Effects are those of the whole text, scored by the plain network; the page shows them."""
    kept = json.loads((workdir / "evaluate/classification/looked_at.json").read_text())
    assert len(kept) == 4 and {len(one["share"]) for one in kept} == {4}
    one, run = kept[1], tuned.tuned(Run(config, workdir))
    assert sum(one["share"]) == pytest.approx(np.mean(one["by_layer"]), abs=1e-4)
    assert 0 < sum(one["reached"]) < 1
    written = representation(config).segments(run, ImageSet.own(run), 9)[one["image"]]
    question = config.evaluate.classification.question
    ids = encode(run.llm.tokenizer, classification.prompt(written, question))
    (answer,) = classification.name_ids(run.llm.tokenizer, [one["answer"]])

    def likelihood(prompt):
        tokens, variables = jnp.asarray([[*prompt, *answer]]), {"params": run.llm.params}
        hidden, _ = run.llm.model.apply(variables, tokens, jnp.arange(tokens.shape[1])[None])
        logits = run.llm.model.apply(variables, hidden[0], method="logits")
        scores = jax.nn.log_softmax(logits)[len(prompt) - 1 : -1]
        return float(scores[jnp.arange(len(answer)), jnp.array(answer)].sum())

    place = ids.index(written[0].ids[2])
    effect = likelihood(ids) - likelihood([*ids[:place], *ids[place + 1 :]])
    assert one["effect"][1] == pytest.approx(effect, abs=1e-3)
    assert "Where an answer looks" in (workdir / "report.html").read_text()


def test_what_looks_most_is_tinted_most():
    where = [[(0.0, 0.0, 0.5, 1.0)], [(0.5, 0.0, 1.0, 1.0)]]
    shown = heat(np.full((8, 8, 3), 100, np.uint8), where, [-1.0, 2.0])
    np.testing.assert_array_equal(shown[0, 0], [100, 100, 100])
    np.testing.assert_array_equal(shown[7, 7], [216, 85, 25])  # three quarters of the tint


def test_texts_nearest_to_a_row(config, workdir):
    run = Run(config, workdir)
    own = np.asarray(run.llm.params["embedding"])
    ids = run.llm.tokenizer.encode(" dog")
    assert nearest_texts(run, own[ids], 1) == [[" dog"]]


def test_an_image_is_written_between_begin_and_end(config, workdir):
    run = Run(config, workdir)
    written = representation(config).segments(run, ImageSet.own(run), 3)
    assert len(written) == len(COLOURS) * PER_CLASS
    words = json.loads(next((workdir / "words").glob("visual-train-*.json")).read_text())
    (segment,) = written[0]
    shown = [word for word, _ in words["images"][0][:3]]
    assert segment.ids == (VOCABULARY + 6, *(VOCABULARY + w for w in shown), VOCABULARY + 7)
    assert segment.text == f"<img><{shown[0]}><{shown[1]}><{shown[2]}></img>"
    assert words["grid"] == [2, 2] and words["images"][0][1][1] == [1]


def test_row_ends(changed, workdir):
    changed.representation.visual_words.row_ends = True
    run = Run(changed, workdir)
    (segment,) = representation(changed).segments(run, ImageSet.own(run), 9)[0]
    ends = [i for i, n in enumerate(segment.ids) if n == VOCABULARY + 8]
    assert ends == [3, 6] and len(segment.ids) == 8


def test_trained_rows_are_kept_and_used(config, workdir):
    run = Run(config, workdir)
    rows = load_new_rows(adapters.adapters_folder(workdir), run.llm.model.config)
    assert rows.shape == (9, 16)
    start = representation(config).new_rows(run)
    assert np.abs(rows - start)[:6].max() > 0.1
    np.testing.assert_array_equal(tuned.tuned(run).llm.params["slots"], rows)
    np.testing.assert_array_equal(tuned.untrained(run).llm.params["slots"], start)


def test_a_killed_job_ends_with_the_same_new_rows(changed, workdir, tmp_path, monkeypatch):
    for name in ("patches", "vocabulary", "words"):
        shutil.copytree(workdir / name, tmp_path / name)
    changed.finetune.checkpoint_every = 10
    next_batch = TextBatches.__next__

    def killed(batches):
        if batches.get_state() == 17:
            raise KeyboardInterrupt
        return next_batch(batches)

    with monkeypatch.context() as patch:
        patch.setattr(TextBatches, "__next__", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(changed, tmp_path)
    assert not finetune.is_done(changed, tmp_path)
    finetune.run(changed, tmp_path)
    name = "finetune/adapters/adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


def test_finished_jobs_are_not_run_again(config, workdir):
    assert vocabulary.is_done(config, workdir) and finetune.is_done(config, workdir)
    there = (workdir / "results.json").read_text()
    runner.run_jobs(config, workdir)
    assert (workdir / "results.json").read_text() == there


def test_patches_nearest_to_a_word(config, workdir):
    run = Run(config, workdir)
    words = VisualVocabulary.load(vocabulary_path(workdir))
    features = representation(config).patches.of(run, "train", run.photos.train)
    cells, images = nearest_patches(words, features, 5)
    assert cells.shape == images.shape == (6, 5)
    for word, (some, of) in enumerate(zip(cells, images)):
        near = words.prepare(np.stack([features[i].reshape(4, -1)[c] for c, i in zip(some, of)]))
        distance = np.sum((near - words.centres[word]) ** 2, 1)
        assert (np.diff(distance) >= 0).all()
        assert words.words(np.stack([features[of[0]].reshape(4, -1)[some[0]]]))[0] == word


@pytest.mark.parametrize("start", ["mean_resizing", "normal", "mean", "projected", "ridge"])
def test_rows_start_as_asked(changed, workdir, start):
    changed.representation.visual_words.rows_start = start
    rows = representation(changed).new_rows(Run(changed, workdir))
    assert rows.shape == (9, 16) and np.isfinite(rows).all()
    again = representation(changed).new_rows(Run(changed, workdir))
    np.testing.assert_array_equal(rows, again)


def test_one_class_gives_no_start_of_rows(changed, workdir, monkeypatch):
    changed.representation.visual_words.rows_start = "ridge"
    run = Run(changed, workdir)
    monkeypatch.setattr(run.photos.train, "labels", np.zeros(len(run.photos.train), int))
    with pytest.raises(
        ConfigError, match="'ridge' needs training images of which two things are said"
    ):
        representation(changed).new_rows(run)


class _OnDisk:
    """Features in a file: slices of at most so many rows are read."""

    def __init__(self, array, most):
        self.array, self.most, self.shape = array, most, array.shape

    def __len__(self):
        return len(self.array)

    def reshape(self, *shape):
        return _OnDisk(self.array.reshape(*shape), self.most)

    def __getitem__(self, rows):
        found = self.array[rows]
        assert len(found) <= self.most
        return found


def test_features_that_do_not_fit_in_memory(changed, workdir, tmp_path, monkeypatch):
    """Words are made of those that are drawn, or of all, a batch at a time."""
    options = changed.representation.visual_words
    run = Run(changed, workdir)
    features = np.array(representation(changed).patches.of(run, "train", run.photos.train))
    features = np.tile(
        features, (1000, 1, 1, 1)
    )  # 72,000 patches, of which 65,536 are searched at a time
    flat = features.reshape(-1, features.shape[-1])
    labels = np.tile(np.asarray(run.photos.train.labels), 1000)
    source = dataclasses.replace(run.photos, train=SyntheticSource(len(features), 8, 0))
    monkeypatch.setattr(source.train, "labels", labels, raising=False)
    monkeypatch.setattr(loading, "photos", lambda config: source)
    read = lambda most: lambda *_: _OnDisk(features, most)
    options.most_points = 20
    monkeypatch.setattr(PatchFeatures, "of", read(6 * 20))
    vocabulary.run(changed, tmp_path / "drawn")
    monkeypatch.setattr(PatchFeatures, "of", read(65_536))
    options.passes = 1
    vocabulary.run(changed, tmp_path / "all")
    words = VisualVocabulary.load(vocabulary_path(tmp_path / "all"))
    assert words.made_with["passes"] == 1
    points = prepared(flat, words.mean, words.projection, False)
    expected = fit_in_batches(points, kmeans_of(representation(changed), run))
    np.testing.assert_allclose(words.centres, expected.centres, atol=1e-4)
    options.outliers = 4.0
    with pytest.raises(ConfigError, match="neither leaves outliers out"):
        vocabulary.run(changed, tmp_path / "none")


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"layer": 0}, "layer is -1, not 0"),
        ({"words": 7}, "words is 6, not 7"),
        ({"fit": "pad"}, "fit is 'crop', not 'pad'"),
    ],
)
def test_words_of_other_options_are_refused(changed, workdir, changes, why):
    changed.representation.visual_words.update(changes)
    with pytest.raises(ConfigError, match=why):
        vocabulary.is_done(changed, workdir)


def test_adapters_for_another_question_are_refused(changed, workdir):
    changed.evaluate.classification.question = "\nWhich colour is it? A"
    assert not finetune.is_done(changed, workdir)
    with pytest.raises(ConfigError, match="adapters of other settings.*texts"):
        tuned.tuned(Run(changed, workdir))


def test_adapters_for_another_vocabulary_are_refused(changed, workdir):
    changed.representation.visual_words.rows_start = "normal"
    with pytest.raises(ConfigError, match="adapters of other settings.*representation"):
        tuned.tuned(Run(changed, workdir))


def test_a_representation_without_words_has_no_vocabulary_job(changed, tmp_path):
    changed.representation.kind = "caption"
    with pytest.raises(ConfigError, match="kind is 'caption'; set it to 'visual_words'"):
        vocabulary.run(changed, tmp_path)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"layer": 5}, ConfigError),
        ({"image_size": 18}, DataError),
        ({"image_size": 2}, DataError),
        ({"pool": 3}, ConfigError),
    ],
)
def test_features_that_cannot_be_are_refused(changed, tmp_path, changes, why):
    changed.representation.visual_words.update(changes)
    with pytest.raises(why, match="layer|whole patches|cannot be averaged"):
        vocabulary.run(changed, tmp_path)


def test_a_class_unseen_in_training_is_said_before_training(changed, monkeypatch):
    labels = np.array([0, 0, 0, 0, 1, 2])
    images = SyntheticSource(3, 8, 0)
    photos = loading.Photos(images, images, (), "made up")
    monkeypatch.setattr(loading, "photos", lambda config: photos)
    names = ["red", "green", "blue"]
    monkeypatch.setattr(classification, "named_labels", lambda photos, given: (labels, names))
    with pytest.raises(DataError, match="no training image shows green, blue"):
        classification.check(changed)
    changed.evaluate.classification.models = ("frozen",)
    classification.check(changed)


def test_patch_features_through_an_mlp_are_learnt(changed, tmp_path):
    """The continuous counterpart: vectors in place of words, by the same jobs."""
    options = changed.representation.visual_words
    changed.representation.kind = "patch_adapter"
    changed.representation.patch_adapter.update(
        {name: options[name] for name in ("tower", "layer", "image_size", "pool")}
    )
    changed.jobs = ("finetune", "evaluate")
    changed.evaluate.classification.update({"models": ("tuned",), "controls": ("no_tokens",)})
    runner.run_jobs(changed, tmp_path)
    assert _value(tmp_path, "top1_accuracy", "tuned", "none") > 0.9
    assert _value(tmp_path, "top1_accuracy", "tuned", "no_tokens") <= 0.67
    assert _value(tmp_path, "visual_tokens", "tuned", "none") == 4
