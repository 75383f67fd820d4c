"""Captions are found beside images or in a file, and any task can be asked with them."""

import json

import pytest

from tests.representations.test_controls import RUN, Source
from tests.tasks.reading_run import reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.errors import DataError
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import read_results
from v2l_jax.representations.base import ImageSet, Text
from v2l_jax.representations.caption import Options

CAPTIONS = {"cats/a.png": "a  small cat\n", "b.png": ["a dog", "a hound"]}


def texts(options, *paths):
    images = ImageSet(("some", Source(paths)))
    options.prepare(RUN, images, 5)
    return [text for ((text),) in options.segments(RUN, images, 5)]


def test_the_text_beside_an_image(tmp_path):
    (tmp_path / "a.txt").write_text("A cat.\nde=Eine Katze.\n")
    (tmp_path / "a.caption").write_text("Another   cat.")
    image = str(tmp_path / "a.png")
    assert texts(Options(), image) == [Text("A cat.")]
    assert texts(Options(suffix=".caption"), image) == [Text("Another cat.")]
    with pytest.raises(DataError, match=r"1 of 2 images have no caption in the .txt files.*b.png"):
        texts(Options(), image, str(tmp_path / "b.png"))


@pytest.mark.parametrize("form", ["json", "tsv"])
def test_a_file_names_images_by_the_end_of_their_path(tmp_path, form):
    path = tmp_path / f"captions.{form}"
    lines = "cats/a.png\ta  small cat\nb.png\ta dog\nb.png\ta hound\n"
    path.write_text(json.dumps(CAPTIONS) if form == "json" else lines)
    options = Options(str(path))
    assert texts(options, "/data/cats/a.png", "/x/b.png") == [Text("a small cat"), Text("a dog")]
    with pytest.raises(DataError, match="2 of 2 images have no caption in .*captions"):
        texts(options, "/data/dogs/a.png", "/data/ab.png")
    first = options.fingerprint()
    path.write_text(json.dumps({"a.png": "changed"}))
    assert options.fingerprint() != first


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "captions.tsv").write_text("a.png a cat\n")
    with pytest.raises(DataError, match="neither a JSON object nor lines"):
        texts(Options(str(tmp_path / "captions.tsv")), "a.png")


def test_few_shot_classification_reads_captions(asset, tmp_path, monkeypatch):
    config = get_config()
    config.evaluate.tasks = ("few_shot",)
    config.evaluate.few_shot.update(ways=(3,), episodes=30, calibrate=False)
    config.evaluate.few_shot.update(controls=("shuffled", "no_tokens"))
    run = reading_run(config, tmp_path, monkeypatch)
    paths = ImageSet.own(run)
    said = {path: f"a plate of {path.split('/')[-2]}" for path in paths}
    (tmp_path / "captions.json").write_text(json.dumps(said))
    config.representation.kind = "caption"
    config.representation.caption.file = str(tmp_path / "captions.json")
    experiment.check(config)
    evaluate.run(config, tmp_path)
    rows = {r.measured_on["control"]: r for r in read_results(tmp_path / "results.json")}
    assert rows["none"].value == 1.0 and rows["shuffled"].value < 0.7 > rows["no_tokens"].value
    assert str(rows["none"].measured_on["representation"]).startswith("caption (file captions.json")
    assert not (tmp_path / "words").exists()
    example = json.loads((run.folder("few_shot") / "example.json").read_text())
    assert "Input: < a plate of " in example["prompt"]
