"""A few damaged files for each reader of outside files; `make fuzz` tries hundreds of thousands.

Hypothesis draws the damage, and shrinks what it finds.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Reader, violations
from tests.fuzz.mutations import damaged
from tests.fuzz.readers import READERS


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            if name == "torch_files":
                pytest.importorskip("torch", reason="make test-parity runs this test")
            made[name] = (READERS[name](), tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name, readers):
    reader, folder = readers(name)
    assert reader.seeds and not list(violations(reader, iter(reader.seeds), folder))


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(name, readers, data):
    reader, folder = readers(name)
    seed = data.draw(st.sampled_from(reader.seeds))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    content = damaged(seed, reader.seeds, rng)
    assert not list(violations(reader, iter([content]), folder))


def test_a_reader_that_fails_otherwise_is_noticed(tmp_path):
    """The harness itself: a traceback, a hang and a message of two lines are faults."""
    import time

    from v2l_jax.errors import DataError

    class TwoLines(DataError):
        def __str__(self):
            return "two\nlines"

    def read(content, folder):
        if content == b"refuse":
            raise DataError("one line")
        if content == b"lines":
            raise TwoLines
        if content == b"fail":
            raise KeyError("x")
        if content == b"hang":
            time.sleep(5)

    inputs = [b"", b"refuse", b"lines", b"fail", b"hang"]
    found = dict(violations(Reader(inputs, read), iter(inputs), tmp_path, seconds=0.2))
    assert list(found) == [b"lines", b"fail", b"hang"]
    assert found[b"fail"].startswith("KeyError") and found[b"hang"].startswith("TooLong")
