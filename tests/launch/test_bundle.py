"""What a bundle is made of: wheels that a machine lacks, assets made small."""

import importlib.metadata

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from launch import bundle_assets, bundle_wheels
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.towers import vgg

TEXT = "For each image, <tokens> 'écrit' 12\n"


def test_only_what_is_lacking_is_bundled_and_what_that_needs():
    """pytest needs pluggy, which is there, and iniconfig, which is not."""
    found = bundle_wheels.lacking(
        "3.12", bundle_wheels.parsed("Pluggy==1.6\npackaging"), ["pytest"]
    )
    assert found["pytest"] == importlib.metadata.version("pytest")
    assert "iniconfig" in found and not {"pluggy", "packaging", "tomli", "colorama"} & found.keys()


def test_jax_is_never_bundled():
    found = bundle_wheels.lacking("3.12", bundle_wheels.OF_JAX)
    assert "flax" in found and not set(bundle_wheels.OF_JAX) & found.keys()


def test_an_unknown_requirement_is_named():
    with pytest.raises(bundle_wheels.WheelError, match="no-such-package is not installed here"):
        bundle_wheels.lacking("3.12", (), ["no-such-package"])


@pytest.mark.parametrize(
    "listed",
    ["Flax==0.12.8\nml_dtypes @ file:///x\n# note\n", "flax,ml-dtypes", "flax  0.1\nml.dtypes  2"],
    ids=["freeze", "names", "list"],
)
def test_what_a_machine_has_is_read_from_any_list(listed):
    assert bundle_wheels.parsed(listed) == {"flax", "ml-dtypes"}


def test_the_vocabulary_alone_tokenizes_as_the_whole_file(asset, tmp_path):
    whole, small = asset("smollm2-135m-instruct"), tmp_path / "vocabulary.gguf"
    bundle_assets.write_vocabulary(small)
    assert small.stat().st_size < 2.5e6 < whole.stat().st_size / 10
    mine, theirs = load_text_tokenizer(small), load_text_tokenizer(whole)
    assert mine.encode(TEXT) == theirs.encode(TEXT)
    assert (mine.fingerprint, mine.vocab_size) == (theirs.fingerprint, theirs.vocab_size)


def test_lpips_in_half_the_bytes_is_the_same_distance(asset, tmp_path):
    whole, small = asset("lpips-vgg16"), tmp_path / "lpips.ckpt"
    bundle_assets.write_lpips(small)
    assert small.stat().st_size < 0.51 * whole.stat().st_size
    a, b = map(jnp.asarray, np.random.default_rng(0).uniform(-1, 1, (2, 2, 16, 16, 3)).astype("f4"))
    params, theirs = vgg.load_lpips(small), vgg.load_lpips(whole)
    assert params["vgg"]["conv_0"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(vgg.lpips(params, a, b), vgg.lpips(theirs, a, b), rtol=2e-3)


def test_a_photo_is_brought_down_to_what_training_looks_at(tmp_path):
    Image.new("RGB", (600, 300), (200, 30, 10)).save(tmp_path / "large.png")
    bundle_assets.write_small(tmp_path / "large.png", tmp_path / "small.jpg")
    with Image.open(tmp_path / "small.jpg") as image:
        assert image.size == (288, 144)
        assert np.abs(np.asarray(image, int) - (200, 30, 10)).max() < 6
