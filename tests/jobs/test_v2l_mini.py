"""The released tokenizer's config: the quickstart's words and split, so that what one holds out the other never saw."""

import pathlib
import runpy

from v2l_jax.jobs import loading, validation

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config_of(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def test_words_and_split_are_the_quickstarts(asset):
    mini, quickstart = config_of("v2l_mini"), config_of("quickstart")
    validation.check(mini)
    assert mini.seed == quickstart.seed and mini.llm == quickstart.llm and mini.tower == quickstart.tower
    assert mini.codebook.to_dict() == quickstart.codebook.to_dict()
    assert mini.tower_options.to_dict() == quickstart.tower_options.to_dict()
    for key in ("labelled", "rename_classes", "held_out"):
        assert mini.data[key] == quickstart.data[key]
    mini.data.unlabelled = ("natural-photos",)
    own, theirs = loading.photos(mini), loading.photos(quickstart)
    paths = lambda source: [source[i]["path"] for i in range(len(source))]  # noqa: E731
    assert paths(own.held_out) == paths(theirs.held_out) and len(own.held_out) == 232
    assert not set(paths(own.train)) & set(paths(own.held_out))
    assert own.train.class_names == theirs.train.class_names


def test_sixteen_by_sixteen_words():
    model = config_of("v2l_mini").model
    assert model.image_size // 2 ** (len(model.channel_multipliers) - 1) == 16
