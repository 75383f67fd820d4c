"""Words mixed with continuous features, resamplers and a blind prefix: what each is before training
and at its limits, on tiny networks.
"""

import jax
import numpy as np
import pytest

from tests.tiny_visual_words import COLOURS, PER_CLASS, get_config
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import vocabulary
from v2l_jax.llm.connector import connect, load_connector, matrix_products, save_connector
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness.learning import learnable

COUNT, WORDS = len(COLOURS) * PER_CLASS, 6


@pytest.fixture(scope="module")
def run(asset, tmp_path_factory):
    """A run with visual words."""
    config = get_config(asset, tmp_path_factory.mktemp("tiny"))
    workdir = tmp_path_factory.mktemp("run")
    config.representation.visual_words.rows_start = "ridge"
    vocabulary.run(config, workdir)
    return Run(config, workdir)


def _like(run, kind, **options):
    """The run with another representation of the same patches and words, and its fresh vectors of
    all images.
    """
    config = run.config.copy_and_resolve_references()
    own = config.representation[kind]
    known = {k: v for k, v in config.representation.visual_words.items() if k in own}
    own.update(known | options)
    config.representation.kind = kind
    changed = Run(config, run.workdir)
    shown = representation(config)
    features = shown.features(changed, ImageSet.own(changed))
    params = shown.init_adapter(jax.random.key(0), changed)
    return changed, shown, features, params


def _rows_of_words(run):
    """The visual words' own rows of every image, marks included."""
    shown, images = representation(run.config), ImageSet.own(run)
    shown.prepare(run, images, 9)
    rows, first = shown.new_rows(run), run.llm.model.config.vocab_size
    return np.stack([rows[np.array(s.ids) - first] for (s,) in shown.segments(run, images, 9)])


@pytest.mark.parametrize(
    "form, options, before",
    [("residual", {}, 0), ("prefix", {"side": 2}, 4), ("probabilistic", {"temperature": 1e-3}, 0)],
)
def test_they_begin_as_the_words_themselves(run, form, options, before):
    """The residual's weight begins at 0, a prefix stands before the words, and a low temperature
    takes the likeliest word of the head.
    """
    _, shown, features, params = _like(run, "mixed_words", form=form, **options)
    expected = _rows_of_words(run)
    if form == "probabilistic":
        inner = params[form]
        likeliest = np.argmax(features[..., 1:] @ np.asarray(inner["kernel"]), axis=-1)
        number = np.where(features[..., 0] < 0, likeliest, features[..., 0].astype(int))
        expected = np.asarray(inner["rows"])[number]
    vectors = np.asarray(connect(params, features))
    assert (
        vectors.shape == (COUNT, before + 4 + 2, 16) and shown.vector_count(features) == before + 6
    )
    np.testing.assert_allclose(vectors[:, before:], expected, atol=1e-5)
    assert shown.new_rows(run) is None
    assert len(matrix_products(params, features.shape[1])) == 1 + (form == "probabilistic")


def test_what_centres_leave_is_added(run):
    _, _, features, params = _like(run, "mixed_words")
    inner = params["residual"] | {"alpha": np.float32(0.5)}
    words, left = features[..., 0].astype(int), features[..., 1:].astype(np.float64)
    expected = np.asarray(inner["rows"])[words] + 0.5 * left @ np.asarray(inner["kernel"])
    np.testing.assert_allclose(connect({"residual": inner}, features), expected, atol=1e-5)
    vocabulary = representation(run.config).vocabulary(run)
    patches = representation(run.config).flat_patches(run, ImageSet.own(run))
    again = vocabulary.centres[words[:, 1:-1]] + left[:, 1:-1]
    wanted = vocabulary.prepare(patches.reshape(-1, patches.shape[-1]))
    np.testing.assert_allclose(again.reshape(wanted.shape), wanted, atol=1e-5)


def test_a_patch_is_the_sum_of_its_chunks_rows(run, tmp_path):
    changed, shown, *_ = _like_product(run, tmp_path, 2)
    features = shown.features(changed, ImageSet.own(changed))
    params = shown.init_adapter(jax.random.key(0), changed)
    centres = shown.vocabulary(changed).centres
    assert features.shape == (COUNT, 6, 2)
    patches = shown.flat_patches(changed, ImageSet.own(changed))[3, 1]
    x, half = shown.vocabulary(changed).prepare(patches[None])[0], centres.shape[1] // 2
    for j, piece in enumerate((slice(0, half), slice(half, None))):
        distances = np.sum((centres[:, piece] - x[piece]) ** 2, axis=1)
        assert features[3, 2, j] == np.argmin(distances)
    tables = np.asarray(params["product"]["rows"])
    a, b = features[3, 2].astype(int)
    found = np.asarray(connect(params, features))[3, 2]
    np.testing.assert_allclose(found, tables[0, a] + tables[1, b], atol=1e-6)


def _like_product(run, workdir, chunks):
    config = run.config.copy_and_resolve_references()
    own = config.representation.mixed_words
    own.update({k: v for k, v in config.representation.visual_words.items() if k in own})
    own.form, own.chunks, config.representation.kind = "product", chunks, "mixed_words"
    vocabulary.run(config, workdir)
    changed = Run(config, workdir)
    return changed, representation(config)


@pytest.mark.parametrize("form", ["perceiver", "qformer"])
def test_a_resampler_reads_all_patches_in_any_order(run, form, tmp_path):
    changed, shown, features, params = _like(run, "resampler", form=form, queries=3)
    vectors = np.asarray(connect(params, features))
    assert vectors.shape == (COUNT, 3, 16) and shown.vector_count(features) == 3
    turned = np.asarray(connect(params, features[:, ::-1]))
    np.testing.assert_allclose(turned, vectors, atol=1e-4)
    one = features.copy()
    one[:, 0] = one[::-1, 0]
    assert np.abs(np.asarray(connect(params, one)) - vectors).max() > 1e-3
    save_connector(tmp_path / "c", params)
    np.testing.assert_array_equal(connect(load_connector(tmp_path / "c"), features), vectors)
    written, given = learnable(changed, ImageSet.own(changed), 9)
    assert len(written[0][0].ids) == 3 and given.shape == (COUNT, 4, features.shape[-1])


def test_a_blind_prefix_is_the_same_for_all(run):
    _, shown, features, params = _like(run, "blind_prefix", vectors=5)
    vectors = np.asarray(connect(params, features))
    assert vectors.shape == (COUNT, 5, 16) and shown.vector_count(features) == 5
    np.testing.assert_array_equal(vectors, np.tile(vectors[:1], (COUNT, 1, 1)))


def test_bags_of_words_have_no_patches_beside_them(run):
    with pytest.raises(ConfigError, match="sequence='order'"):
        _like(run, "mixed_words", sequence="bag")
