"""Metrics on disk: `metrics.jsonl`, a row a line, and TensorBoard events where TensorFlow is
installed.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping

import jax
from absl import logging

from v2l_jax.errors import CheckpointError

FILE_NAME = "metrics.jsonl"


class MetricLog:
    """Appends rows `{"step": 10, "split": "train", "loss": 0.5, ...}` to `metrics.jsonl` in a run's
    folder.

    Rows hold no wall-clock time, so that an interrupted run's file equals the uninterrupted one's.
    Only the first process writes.

    Args:
      workdir: the run's folder, made if missing.
      tensorboard: also write events to `workdir/tensorboard`, where TensorFlow is installed.

    Raises:
      CheckpointError: the folder cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike, tensorboard: bool = True):
        self.path = pathlib.Path(workdir) / FILE_NAME
        self._file = None
        self._summaries = None
        if jax.process_index() != 0:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path}: {error.strerror}; choose another --workdir"
            ) from error
        if tensorboard:
            self._summaries = _summary_writer(self.path.parent / "tensorboard")

    def resume(self, step: int, evaluated: bool) -> None:
        """Drops the rows after `step`, and a last line that a kill cut short, before training goes
        on from there.

        Args:
          step: training steps done.
          evaluated: whether the evaluation after `step` is done; where not, it will run again and
            its row is dropped too.
        """
        if self._file is None:
            return
        rows = [
            row
            for row in read_metrics(self.path)
            if row["step"] < step + (evaluated or row["split"] == "train")
        ]
        draft = self.path.with_suffix(".partial")
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file.close()
        draft.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Adds one row; it is in the file when this returns.

        Args:
          step: training steps done.
          split: what was measured: "train" or "eval".
          metrics: name to value.

        Raises:
          CheckpointError: the disk is full or gone.
        """
        if self._file is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path}: {error.strerror}; make room and run again"
            ) from error
        if self._summaries is not None:
            self._summaries.write_scalars(
                step, {f"{split}/{name}": value for name, value in values.items()}
            )

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk was reported by `write`
                self._file.close()
        if self._summaries is not None:
            self._summaries.close()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Reads the rows of a `metrics.jsonl`; lines that a kill cut short are left out."""
    rows = []
    for line in pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), (int, float)):
            rows.append(row)
    return rows


def _summary_writer(folder: pathlib.Path):
    """A clu SummaryWriter, or None with one log line where TensorFlow, which clu writes through, is
    missing.
    """
    if importlib.util.find_spec("tensorflow") is None:
        logging.info(
            "No TensorBoard events: TensorFlow is not installed (pip install "
            "'v2l_jax[tensorboard]')."
        )
        return None
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(folder))
