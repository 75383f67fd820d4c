"""A few traced steps leave a file that XProf reads, and the same bits as an untraced run."""

import pathlib
import runpy
import types

import jax
import numpy as np
import pytest

from v2l_jax.training.profiler import StepProfiler

toy = types.SimpleNamespace(**runpy.run_path(str(pathlib.Path(__file__).with_name("toy_run.py"))))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain")
    return jax.tree.map(np.asarray, toy.train(workdir)), (workdir / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("steps", "traced"), [((7, 9), [7, 8, 9]), ((22, 99), [22, 23]), ((40, 50), [])]
)
def test_traced_steps_and_no_others_are_in_the_file(tmp_path, plain, steps, traced):
    state = toy.train(tmp_path, profiler=StepProfiler(steps, tmp_path / "profile"))
    assert jax.tree.all(jax.tree.map(np.array_equal, jax.tree.map(np.asarray, state), plain[0]))
    assert (tmp_path / "metrics.jsonl").read_bytes() == plain[1]
    files = list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))
    assert len(files) == bool(traced)
    for file in files:
        assert sorted(_steps_in(file)) == traced


def _steps_in(file: pathlib.Path) -> set[int]:
    data = jax.profiler.ProfileData.from_file(str(file))
    events = [
        event
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    return {int(dict(event.stats)["step_num"]) for event in events}
