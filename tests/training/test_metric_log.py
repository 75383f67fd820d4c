"""metrics.jsonl: append, cut back on resume, read."""

import json
import pathlib
import sys
import types

import pytest

from v2l_jax.errors import CheckpointError
from v2l_jax.training import metric_log
from v2l_jax.training.metric_log import MetricLog, read_metrics


def test_rows_are_on_disk_as_soon_as_written(tmp_path):
    log = MetricLog(tmp_path / "run")
    log.write(10, "train", {"loss": 0.1, "psnr": 20.0})
    log.write(10, "eval", {"psnr": 21.5})
    expected = [
        {"step": 10, "split": "train", "loss": 0.1, "psnr": 20.0},
        {"step": 10, "split": "eval", "psnr": 21.5},
    ]
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == expected
    log.close()
    log = MetricLog(tmp_path / "run")
    log.write(20, "train", {"loss": 0.05})
    log.close()
    assert [row["step"] for row in read_metrics(log.path)] == [10, 10, 20]


@pytest.mark.parametrize(
    ("evaluated", "kept"),
    [(True, [(1, "train"), (2, "train"), (2, "eval")]), (False, [(1, "train"), (2, "train")])],
)
def test_resume_drops_what_comes_after_and_the_cut_line(tmp_path, evaluated, kept):
    log = MetricLog(tmp_path)
    for step, split in [(1, "train"), (2, "train"), (2, "eval"), (3, "train"), (3, "eval")]:
        log.write(step, split, {"loss": 1 / step})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 4, "spl')
    log = MetricLog(tmp_path)
    log.resume(2, evaluated)
    assert [(row["step"], row["split"]) for row in read_metrics(log.path)] == kept
    log.write(3, "train", {"loss": 1 / 3})
    log.close()
    lines = log.path.read_text().splitlines()
    assert (
        json.loads(lines[-1]) == {"step": 3, "split": "train", "loss": 1 / 3}
        and len(lines) == len(kept) + 1
    )
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError) as raised:
        MetricLog(tmp_path / "file" / "run")
    assert "cannot write" in str(raised.value) and "\n" not in str(raised.value)


def test_full_disk_is_one_clear_line(tmp_path):
    full = pathlib.Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / metric_log.FILE_NAME).symlink_to(full)
    log = MetricLog(tmp_path)
    with pytest.raises(CheckpointError, match="No space left on device"):
        log.write(1, "train", {"loss": 1.0})


def test_without_tensorflow_one_line_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(metric_log.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("INFO", logger="absl"):
        MetricLog(tmp_path).close()
    assert caplog.text.count("TensorFlow is not installed") == 1
    assert not (tmp_path / "tensorboard").exists()


def test_with_tensorflow_scalars_reach_the_summary_writer(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def write_scalars(self, step, scalars):
            written.append((self.folder, step, scalars))

        def close(self):
            written.append("closed")

    writers = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setattr(metric_log.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "clu", types.SimpleNamespace(metric_writers=writers))
    log = MetricLog(tmp_path)
    log.write(3, "eval", {"psnr": 20.0})
    log.close()
    assert written == [(str(tmp_path / "tensorboard"), 3, {"eval/psnr": 20.0}), "closed"]
