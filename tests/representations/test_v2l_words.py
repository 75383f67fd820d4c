"""V2L's words are read where the tokenizer wrote them, and otherwise chosen once and kept."""

import json

import numpy as np
import pytest

from tests.tasks.reading_run import WORDS, reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.representations import fingerprint, representation, representations
from v2l_jax.representations.base import ImageSet, Text, shown_text
from v2l_jax.representations.token_choice import TokenChoice
from v2l_jax.representations.v2l_words import Options, word_texts
from v2l_jax.run import loading
from v2l_jax.run.paths import tokens_path


@pytest.fixture
def run(asset, tmp_path, monkeypatch):
    config = get_config()
    config.representation.v2l_words.single_words = False
    return reading_run(config, tmp_path, monkeypatch)


def texts(written):
    return [[segment.text for segment in image] for image in written]


@pytest.mark.parametrize(
    "words", [[" cat", " a"], [" ", "cat ", "\n"], [" ", "\n"], [], ["", " x", ""], ["  a b  "]]
)
def test_texts_join_to_the_words_without_space_around_them(words):
    pieces = word_texts(words)
    assert shown_text(pieces, str) == "".join(words).strip()
    assert len(pieces) == len(words)
    assert all(piece.text in word for piece, word in zip(pieces, words, strict=True))


def test_nearest_words_by_distance(run):
    images = ImageSet.own(run)
    written = representation(run.config).segments(run, images, 4)
    book, vectors = run.global_words, images.image_embeddings(run)
    for i in (0, 7, len(images) - 1):
        order = np.argsort(np.linalg.norm(book.embeddings - vectors[i], axis=1))[:4]
        assert written[i] == word_texts([book.texts[j] for j in order])


def test_what_the_tokenizer_wrote_is_read(run):
    ids = np.arange(len(run.photos.train) * 3, dtype=np.int32).reshape(-1, 3) % 18
    path = tokens_path(run.workdir, "train")
    path.parent.mkdir()
    np.savez(path, global_ids=ids, local_ids=ids[:, None])
    images, book = ImageSet(("train", run.photos.train)), run.global_words
    written = representation(run.config).segments(run, images, 2)
    assert list(written) == [word_texts([book.texts[i] for i in row[:2]]) for row in ids]
    assert not (run.workdir / "words").exists()
    more = representation(run.config).segments(run, images, 4)
    assert {len(image) for image in more} == {4}
    run.config.representation.v2l_words.single_words = True
    other = representation(run.config).segments(run, images, 2)
    assert list(other) != list(written)


def test_words_are_kept_and_chosen_again_only_for_more(run):
    images, shown = ImageSet(("train", run.photos.train)), Options(selection="diverse")
    shown.prepare(run, images, 3)
    (path,) = (run.workdir / "words").iterdir()
    kept = json.loads(path.read_text())
    assert kept["budget"] == 3 and len(kept["words"]) == len(images)
    kept["words"][0] = [" kept"]
    path.write_text(json.dumps(kept))
    assert shown.segments(run, images, 2)[0] == (Text("kept"),)
    assert len(shown.segments(run, images, 4)[0]) == 4
    assert json.loads(path.read_text())["budget"] == 4
    assert len(list((run.workdir / "words").iterdir())) == 1


def test_single_words_alone(run):
    written = Options(single_words=True).segments(run, ImageSet.own(run), 6)
    tokenizer = loading.text_tokenizer(run.config)
    all_words = [text for group in WORDS.values() for text in group]
    single = {text.strip() for text in all_words if len(tokenizer.encode(text)) == 1}
    assert {text.strip() for image in texts(written) for text in image} == single
    assert len(single) < 18


def test_vocabularies(run):
    run.config.codebook.update(merge_spellings=True, filter_top=1, filter_min_hits=1)
    assert len(Options().codebook(run)) == 18
    assert len(Options("candidates").codebook(run)) < 18
    published = Options("published").codebook(run)
    products = run.split_features("train") @ np.asarray(run.candidates.embeddings).T
    hit = sorted(set(products.argmax(1).tolist()))
    assert published.texts == tuple(run.candidates.texts[i] for i in hit)


def test_options_pick_words_and_label_them():
    assert Options(mmr=0.3).choice(5) == TokenChoice(5)
    assert Options(mmr=0.3).fingerprint() == Options().fingerprint()
    diverse = Options(selection="diverse", mmr=0.7, adaptive=0.8)
    assert diverse.choice(7) == TokenChoice(7, merge=True, mmr=0.7, adaptive=0.8)
    assert diverse.fingerprint()["words"] == "diverse (mmr 0.7), adaptive 0.8"
    single = Options("candidates", single_words=True)
    assert single.fingerprint() == {"words": "nearest, single", "vocabulary": "candidates"}


def test_a_config_names_the_representation():
    config = get_config()
    assert {"v2l_words", "none"} <= representations().keys()
    assert fingerprint(config) == {
        "representation": "v2l_words (words nearest, single; vocabulary global)"
    }
    config.representation.kind = "none"
    experiment.check(config)
    assert fingerprint(config) == {"representation": "none"}
    config.representation.kind = "pictures"
    with pytest.raises(ConfigError, match="representation.kind is 'pictures', but must be one of"):
        experiment.check(config)


def test_options_that_moved_say_where():
    config = get_config()
    config.evaluate.few_shot.single_words = True
    with pytest.raises(
        ConfigError, match="few_shot.single_words is now config.representation.v2l_words.single"
    ):
        experiment.check(config)
