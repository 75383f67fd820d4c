"""Controls tell as much as what they wrap, but not of the image that is asked about."""

import dataclasses
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from v2l_jax.representations.base import ImageSet, Representation, Text, Written
from v2l_jax.representations.controls import derangement, under_control
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Numbers(Representation):
    """Writes each image as its number."""

    digits: int = 3

    def segments(self, run, images, budget):
        return Written(len(images), lambda i: (Text(f"{i:0{self.digits}}"[:budget]),))


class Source:
    """A named number of images that are never looked at."""

    class_names = ()

    def __init__(self, paths):
        self.paths = tuple(paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        raise AssertionError("no image is decoded")


RUN = Run(ConfigDict(), pathlib.Path("nowhere"))
IMAGES = ImageSet(("a", Source("xyz")), ("b", Source("uvw" * 10)))


def test_a_derangement_moves_every_image():
    for seed in range(20):
        other = derangement(50, seed)
        assert sorted(other) == list(range(50)) and (other != np.arange(50)).all()
    assert (derangement(50, 0) == derangement(50, 0)).all()
    assert (derangement(50, 0) != derangement(50, 1)).any()
    assert derangement(1, 0).tolist() == [0]


def test_shuffled_shows_another_image_of_all_parts():
    written = under_control(Numbers(), "shuffled", 5).segments(RUN, IMAGES, 3)
    other = derangement(33, 5)
    assert list(written) == [(Text(f"{i:03}"),) for i in other]
    assert [written[i] for i in range(33)] == list(written) and len(written) == 33
    assert (under_control(Numbers(), "shuffled", 5).content(IMAGES) == other).all()


def test_no_image_shows_nothing():
    control = under_control(Numbers(), "no_tokens", 5)
    assert list(control.segments(RUN, IMAGES, 3)) == [()] * 33
    assert control.content(IMAGES) is None


def test_without_a_control_nothing_is_wrapped():
    assert under_control(Numbers(), "none", 5) == Numbers()
    with pytest.raises(KeyError):
        under_control(Numbers(), "louder", 5)


def test_rows_name_what_is_wrapped():
    for control in ("none", "shuffled", "no_tokens"):
        assert under_control(Numbers(4), control, 0).fingerprint() == {"digits": 4}


def test_images_of_several_parts_are_counted_on():
    assert len(IMAGES) == 33
    assert "".join(IMAGES[i] for i in (0, 2, 3, 32)) == "xzuw"
    with pytest.raises(IndexError):
        IMAGES[33]
