"""Checkpoints: what is saved comes back bit for bit, or an error says why not."""

import pathlib
import resource
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.parallel.mesh import make_mesh, replicate
from v2l_jax.parallel.sharding import tree_shardings
from v2l_jax.training import checkpoints
from v2l_jax.training.checkpoints import Checkpointer


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    rng: jax.Array


def make_state(seed=0, features=16, layers=2):
    rs = np.random.RandomState(seed)
    params = {
        f"layer_{i}": {"kernel": jnp.asarray(rs.randn(features, 8), jnp.float32)}
        for i in range(layers)
    }
    params["scale"] = jnp.asarray(rs.randn(4), jnp.bfloat16)
    return State(jnp.int32(seed), params, optax.adam(1e-3).init(params), jax.random.PRNGKey(seed))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save_steps(directory, steps, **options):
    with Checkpointer(directory, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, make_state(step), data_position={"record": step})


def biggest_file(folder: pathlib.Path) -> pathlib.Path:
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


@pytest.mark.parametrize("position", [{"epoch": 2, "order": [3, 1]}, b"\x00\xffgrain", None])
def test_everything_comes_back(tmp_path, position):
    state = make_state(5)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(
            5,
            state,
            data_position=position,
            metrics={"psnr": 20.1},
            unlogged={"loss": [0.1, 1 / 3]},
        )
    with Checkpointer(tmp_path) as checkpointer:
        found = checkpointer.restore(jax.eval_shape(lambda: make_state(0)))
    assert_same(found.state, state)
    assert (found.step, found.data_position) == (5, position)
    assert found.metrics == {"psnr": 20.1} and found.unlogged == {"loss": [0.1, 1 / 3]}


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = jax.tree.map(
        lambda leaf: jnp.tile(leaf, (64,) + (1,) * max(leaf.ndim - 1, 0)),
        make_state(1, features=512),
    )
    expected = jax.tree.map(np.array, state)
    scramble = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        for _ in range(10):
            state = scramble(state)
        checkpointer.wait()
        assert_same(checkpointer.restore(state).state, expected)


@pytest.mark.mesh
def test_restores_onto_another_mesh(tmp_path):
    state = make_state(3)
    mesh = make_mesh({"data": 2, "fsdp": 4})
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, replicate(state, make_mesh({"data": -1})))
        shardings = tree_shardings(state, mesh, [("kernel", ("fsdp", None))])
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
        )
        found = checkpointer.restore(like).state
    assert_same(found, state)
    assert found.params["layer_0"]["kernel"].sharding == shardings.params["layer_0"]["kernel"]
    assert found.opt_state[0].mu["layer_0"]["kernel"].addressable_shards[0].data.shape == (4, 8)


def test_keeps_the_last_few_and_the_best(tmp_path):
    psnr = {1: 20.0, 2: 25.0, 3: 24.0, 4: None, 5: 23.0, 6: None}
    options = dict(keep_last=2, keep_best=1, best_metric="psnr", higher_is_better=True)
    for step, value in psnr.items():  # a new process each time: the ranking is read back from disk
        with Checkpointer(tmp_path, **options) as checkpointer:
            checkpointer.save(
                step, make_state(step), metrics={} if value is None else {"psnr": value}
            )
    with Checkpointer(tmp_path, **options) as checkpointer:
        assert checkpointer.steps() == [2, 5, 6]
        assert checkpointer.best_step() == 2
        assert_same(checkpointer.restore(make_state(), step=2).state, make_state(2))
        assert checkpointer.restore(make_state()).step == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_keeps_one_every_so_many_steps(tmp_path):
    with Checkpointer(tmp_path, keep_last=1, keep_every=3) as checkpointer:
        for step in range(1, 9):
            checkpointer.save(step, make_state(step))
        checkpointer.wait()
        assert checkpointer.steps() == [3, 6, 8]


def test_lower_is_better_and_ties_keep_the_newer(tmp_path):
    with Checkpointer(tmp_path, keep_last=1, keep_best=2, best_metric="lpips") as checkpointer:
        for step, lpips in enumerate([0.5, 0.2, float("nan"), 0.2, 0.9, 0.8]):
            checkpointer.save(step, make_state(step), metrics={"lpips": lpips})
        checkpointer.wait()
        assert checkpointer.steps() == [1, 3, 5] and checkpointer.best_step() == 3


def damage(folder, how):
    target = biggest_file(folder)
    content = target.read_bytes()
    middle = len(content) // 2
    match how:
        case "truncated":
            target.write_bytes(content[:middle])
        case "bit flipped":
            target.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
        case "zeroed":
            target.write_bytes(bytes(len(content)))
        case "file missing":
            target.unlink()
        case "run record truncated":
            (folder / "run" / "metadata").write_text('{"step"')
        case "checksums truncated":
            (folder / "checksums.json").write_text('{"a": ')
        case "emptied":
            for path in folder.rglob("*"):
                if path.is_file():
                    path.unlink()


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "bit flipped",
        "zeroed",
        "file missing",
        "run record truncated",
        "checksums truncated",
        "emptied",
    ],
)
def test_corrupt_newest_falls_back_and_says_so(tmp_path, caplog, how):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "2", how)
    with Checkpointer(tmp_path) as checkpointer:
        with caplog.at_level("WARNING"):
            found = checkpointer.restore(make_state())
        assert found.step == 1 and found.data_position == {"record": 1}
        assert_same(found.state, make_state(1))
        assert f"{tmp_path / '2'} is corrupt" in caplog.text and "falling back" in caplog.text
        checkpointer.save(2, make_state(2))  # training reaches that step again
        checkpointer.wait()
        assert_same(checkpointer.restore(make_state()).state, make_state(2))


def test_all_corrupt_is_an_error_not_a_fresh_start(tmp_path):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "1", "truncated")
    damage(tmp_path / "2", "truncated")
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(CheckpointError, match="can be read"),
    ):
        checkpointer.restore(make_state())


def test_asked_for_step_that_is_corrupt_or_absent(tmp_path):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "2", "truncated")
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match="2 is corrupt"):
            checkpointer.restore(make_state(), step=2)
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 .* steps \[1, 2\]"):
            checkpointer.restore(make_state(), step=7)
    with (
        Checkpointer(tmp_path / "new") as checkpointer,
        pytest.raises(CheckpointError, match="no checkpoint in"),
    ):
        checkpointer.restore(make_state())


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            dict(features=32),
            r"params/layer_0/kernel is \(16, 8\) float32 there and \(32, 8\) float32 here",
        ),
        (dict(layers=3), r"params/layer_2/kernel is absent there and \(16, 8\) float32 here"),
        (dict(layers=1), r"params/layer_1/kernel is \(16, 8\) float32 there and absent here"),
    ],
)
def test_other_model_names_the_first_leaf_that_differs(tmp_path, like, message):
    save_steps(tmp_path, [1])
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match=message):
            checkpointer.restore(make_state(**like))
        assert checkpointer.steps() == [1]


def test_full_disk_leaves_the_previous_checkpoint_whole(tmp_path):
    """The kernel refuses to write beyond RLIMIT_FSIZE, as it does on a full disk, without root or a
    small disk.
    """
    noise = jnp.asarray(np.random.RandomState(0).randn(1 << 20), jnp.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"w": noise})
        checkpointer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            with pytest.raises(CheckpointError) as raised:
                checkpointer.save(2, {"w": noise + 1})
                checkpointer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        message = str(raised.value)
        assert "step 2" in message and "File too large" in message and "step 1 is intact" in message
        assert "\n" not in message
        assert [path.name for path in tmp_path.iterdir()] == [
            "1"
        ]  # the half-written one no longer fills the disk
        assert_same(checkpointer.restore({"w": noise}).state, {"w": noise})
        checkpointer.save(2, {"w": noise + 1})  # room was made
        checkpointer.wait()
    with Checkpointer(tmp_path) as checkpointer:
        assert_same(checkpointer.restore({"w": noise}).state, {"w": noise + 1})


def test_draft_left_by_a_kill_is_cleaned_and_not_restored(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(make_state()).step == 1
        checkpointer.save(2, make_state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1))
        checkpointer.save(1, make_state(2))
        checkpointer.wait()
        assert_same(checkpointer.restore(make_state()).state, make_state(1))


@pytest.mark.parametrize("place", ["under a file", "proc"])
def test_unwritable_place_is_one_clear_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    directory = {
        "under a file": tmp_path / "file" / "checkpoints",
        "proc": pathlib.Path("/proc/v2l"),
    }[place]
    with pytest.raises(CheckpointError) as raised:
        Checkpointer(directory)
    assert "cannot write checkpoints" in str(raised.value) and "\n" not in str(raised.value)


def test_other_config_is_restored_with_a_warning(tmp_path, caplog):
    save_steps(tmp_path, [1], config_digest="a")
    with Checkpointer(tmp_path, config_digest="b") as checkpointer, caplog.at_level("WARNING"):
        checkpointer.restore(make_state())
    assert "another config" in caplog.text


def test_keeping_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="keep_last is 0"):
        Checkpointer(tmp_path, keep_last=0)


def test_terminal_stays_quiet(tmp_path, capfd, caplog):
    with caplog.at_level("INFO", logger="absl"):
        save_steps(tmp_path, [1, 2, 3])
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.restore(make_state())
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records] == []


def test_one_process_alone_reads_what_all_wrote(tmp_path):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "2", "truncated")
    with Checkpointer(tmp_path, every_process=False) as checkpointer:
        assert_same(checkpointer.restore(make_state()).state, make_state(1))


@pytest.mark.parametrize("name", ["a[1]", "a]", "what?", "star*", "back\\slash"])
def test_a_folder_that_orbax_would_search_by_a_pattern_is_refused_before_training(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot be kept in .* the path holds"):
        Checkpointer(tmp_path / name / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot be printed"):
        Checkpointer(tmp_path / "caf\udce9")


def test_what_cannot_be_read_back_is_said_after_the_save_and_never_renamed(tmp_path, monkeypatch):
    """Were a path not refused: the fault is noticed at once, and a healthy checkpoint stays."""
    monkeypatch.setattr(checkpoints, "check_name", lambda directory: None)
    folder = tmp_path / "a[1]"
    with pytest.raises(CheckpointError, match="step 1 was written .* cannot be read back"):
        save_steps(folder, [1])
    with Checkpointer(folder) as checkpointer:
        with pytest.raises(CheckpointError, match="as they were written; nothing was changed"):
            checkpointer.restore(make_state())
    assert (folder / "1").is_dir() and not (folder / "1.corrupt").exists()


def test_callbacks_after_a_failed_save_say_nothing_more(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    for _ in range(2):
        checkpoints._drop_late_callbacks()
    for words in ("Event loop is closed", "another fault"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))
    assert [str(one.exc_value) for one in shown] == ["another fault"]
