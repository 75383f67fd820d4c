"""The released tokenizer's config: the quickstart's words and split, so that what one holds out the
other never saw.
"""

import pathlib
import runpy

import numpy as np

from v2l_jax import experiment
from v2l_jax.data.sources import ImageFolder
from v2l_jax.data.transforms import ImageTransform
from v2l_jax.run import building, loading
from v2l_jax.tokenizers import decode, load_tokenizer, tokenize
from v2l_jax.tokenizers.released import SHIPPED

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config_of(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def test_words_and_split_are_the_quickstarts(asset):
    mini, quickstart = config_of("v2l_mini"), config_of("quickstart")
    experiment.check(mini)
    assert (
        mini.seed == quickstart.seed
        and mini.llm == quickstart.llm
        and mini.tower == quickstart.tower
    )
    assert mini.codebook.to_dict() == quickstart.codebook.to_dict()
    assert mini.tower_options.to_dict() == quickstart.tower_options.to_dict()
    for key in ("labelled", "rename_classes", "held_out"):
        assert mini.data[key] == quickstart.data[key]
    mini.data.unlabelled = ("natural-photos",)
    own, theirs = loading.photos(mini), loading.photos(quickstart)
    paths = lambda source: [source[i]["path"] for i in range(len(source))]
    assert paths(own.held_out) == paths(theirs.held_out) and len(own.held_out) == 232
    assert not set(paths(own.train)) & set(paths(own.held_out))
    assert own.train.class_names == theirs.train.class_names


def test_the_quickstart_starts_from_it():
    """Sizes and words are the quickstart's, whatever the codebook job of today makes of them."""
    mini, quickstart, released = (
        config_of("v2l_mini"),
        config_of("quickstart"),
        load_tokenizer("v2l-mini"),
    )
    assert quickstart.train.start_from == released.name == mini.release.name
    assert mini.model.to_dict() == quickstart.model.to_dict()
    assert (released.image_size, released.global_tokens) == (
        quickstart.model.image_size,
        quickstart.model.global_tokens,
    )
    books = {"local": released.local_words, "global": released.global_words}
    released.check_sizes(building.tokenizer(quickstart, building.vectors(books)).network)
    assert len(released.local_words) == quickstart.codebook.local_limit
    size = sum(path.stat().st_size for path in (SHIPPED / "v2l-mini").iterdir())
    assert size <= 20e6


def test_photos_that_it_never_saw_come_back_from_their_words(asset):
    """Each decoded picture is nearer to its own photo than to any other, and most are nearer than
    the photo's own mean colour.
    """
    released = load_tokenizer("v2l-mini")
    source = ImageFolder([asset("scikit-image-photos")])
    transform = ImageTransform(released.image_size)
    images = np.stack(
        [transform(source[i], np.random.default_rng(0))["image"] for i in range(len(source))]
    )
    image_embedding = (
        np.random.default_rng(0).normal(size=(len(images), released.model.word_dim)).astype("f4")
    )  # global words at random
    tokens = tokenize(
        released.model, released.variables, images, image_embedding, released.global_tokens
    )
    decoded = np.asarray(decode(released.model, released.variables, tokens))
    errors = ((decoded[:, None] - images[None]) ** 2).mean((2, 3, 4))
    assert len(images) > 3 and (errors.argmin(1) == np.arange(len(images))).all()
    spread = images.var(axis=(1, 2)).mean(-1)  # the error of each photo's own mean colour
    assert np.median(np.diag(errors) / spread) < 0.8


def test_sixteen_by_sixteen_words():
    model = config_of("v2l_mini").model
    assert model.image_size // 2 ** (len(model.channel_multipliers) - 1) == 16
