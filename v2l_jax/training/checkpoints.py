"""Checkpoints of a whole training run: state, data position and what the loop had not logged yet
(orbax underneath).
"""

import base64
import contextlib
import dataclasses
import errno
import json
import logging as standard_logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from v2l_jax import buckets
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.parallel.processes import barrier, broadcast, is_primary
from v2l_jax.parallel.sharding import leaf_name
from v2l_jax.training.checksums import (
    AnyPath,
    CorruptFolderError,
    verify_checksums,
    write_checksums,
)
from v2l_jax.training.retention import KeepLastAndBest


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped.

    Attributes:
      step: training steps done.
      state: the training state, on the shardings asked for.
      data_position: what the loader's `get_state` returned after the batch of `step`.
      metrics: evaluation metrics at `step`; empty where none ran. The best checkpoint is chosen by
        them.
      unlogged: training metrics of the steps since the last row of the metric log, name to one
        value a step.
    """

    step: int
    state: PyTree
    data_position: Any
    metrics: dict[str, float]
    unlogged: dict[str, list[float]]


class Checkpointer:
    """Saves in the background, keeps the last few and the best, and restores the newest that is
    whole.

    A checkpoint appears under its final name only when complete, with the checksum of every file
    inside, so a kill while saving leaves the one before. Use it as a context manager, or call
    `close`.

    Args:
      directory: where `<step>/` folders go; made if missing.
      keep_last: how many of the newest to keep; at least 1.
      keep_best: how many of the best by `best_metric` to keep besides.
      keep_every: keep those of every so many steps besides; 0 keeps none for that.
      best_metric: name of an evaluation metric; None keeps no best.
      higher_is_better: whether a larger value of `best_metric` is better.
      config_digest: identifies the config; restoring under another one is logged as a warning.
      every_process: of several processes all call this one's methods, together; False: this process
        alone does.

    Raises:
      CheckpointError: the directory cannot be written.
      ConfigError: `keep_last` is below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        keep_every: int = 0,
        best_metric: str | None = None,
        higher_is_better: bool = False,
        config_digest: str = "",
        every_process: bool = True,
    ):
        if keep_last < 1:
            raise ConfigError(
                f"keep_last is {keep_last}: at least the newest checkpoint must be kept"
            )
        standard_logging.getLogger("absl").addFilter(_drop_orbax_chatter)
        standard_logging.getLogger("asyncio").addFilter(_drop_unretrieved)
        _drop_late_callbacks()
        self.directory = _place(directory)
        self._config_digest = config_digest
        self._every_process = every_process
        self._saving: int | None = None
        self._retention = KeepLastAndBest(
            keep_last, keep_best if best_metric else 0, best_metric, higher_is_better, keep_every
        )
        alone = ocp.options.MultiprocessingOptions(
            jax.process_index(), {jax.process_index()}, "alone"
        )
        self._manager = ocp.CheckpointManager(
            epath.Path(self.directory),
            options=ocp.CheckpointManagerOptions(
                create=False,  # `_check_writable` did
                cleanup_tmp_directories=True,
                lightweight_initialize=True,
                preservation_policy=self._retention,
                multiprocessing_options=ocp.options.MultiprocessingOptions()
                if every_process
                else alone,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
            ),
        )
        for step in self.steps():
            self._retention.scores[step] = self._read_metrics(step)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the best `best_metric`; None where no checkpoint has it."""
        ranked = self._retention.ranked(self.steps())
        return ranked[0] if ranked else None

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        data_position: Any = None,
        metrics: Mapping[str, float] | None = None,
        unlogged: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Copies the state off the devices and writes it in the background; nothing happens if
        `step` is already saved.

        Args:
          step: training steps done.
          state: tree of arrays; may be donated as soon as this returns.
          data_position: bytes, or anything JSON can hold.
          metrics: evaluation metrics at this step.
          unlogged: see `Checkpoint`.

        Raises:
          CheckpointError: this save, or the one before that was still being written, failed (disk
            full, for example).
        """
        self.wait()
        if step in self.steps():
            return
        buckets.push()  # what the run has logged before this step
        run = {
            "step": step,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "unlogged": {
                name: [float(value) for value in values]
                for name, values in (unlogged or {}).items()
            },
            "config_digest": self._config_digest,
            "data_position": _encode_position(data_position),
            "leaves": _describe(state),
        }
        self._retention.scores[step] = run["metrics"]
        self._saving = step
        try:
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
            )
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._save_failure(error) from error

    def wait(self) -> None:
        """Waits until everything saved is on disk.

        Raises:
          CheckpointError: the save failed, or what was saved cannot be read back; checkpoints
            before it are intact.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._save_failure(error) from error
        step, self._saving = self._saving, None
        if step is not None:
            self._check_readable(step)

    def _check_readable(self, step: int) -> None:
        """Reads back what describes a checkpoint that was just written: its numbers are covered by
        the checksums.
        """
        try:
            self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
            metadata = self._manager.item_metadata(step)
            if metadata is None or getattr(metadata, "state", None) is None:
                raise ValueError("it has no description of the state")
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of step {step} was written to {self.directory}, but cannot be "
                f"read back ({_first_line(error)}); choose another --workdir"
            ) from error

    def close(self) -> None:
        """Waits, then stops the background threads.

        Raises:
          CheckpointError: as `wait`.
        """
        self.wait()
        self._manager.close()

    def restore(self, like: PyTree, step: int | None = None) -> Checkpoint:
        """Reads a checkpoint.

        Args:
          like: tree of arrays or `jax.ShapeDtypeStruct` with the shapes, types and shardings
            wanted.
          step: which one; None: the newest that is whole. Newer ones that are not are renamed
            `<step>.corrupt`, with a warning.

        Raises:
          CheckpointError: there is none, none is whole, or it is of another model (names the first
            leaf that differs).
        """
        self.wait()
        candidates = self.steps()[::-1] if step is None else [step]
        for candidate in candidates:
            try:
                return self._restore_step(like, candidate)
            except CorruptFolderError as corrupt:
                reason = f"checkpoint {self.directory / str(candidate)} is corrupt: {corrupt}"
                if step is not None:
                    raise CheckpointError(
                        f"{reason}; restore another of the steps {self.steps()}"
                    ) from corrupt
                logging.warning("%s; falling back to the one before", reason)
                self._set_aside(candidate)
        if candidates:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be read; delete that folder to start "
                "training over"
            )
        raise CheckpointError(
            f"no checkpoint in {self.directory}; train first, or name another folder"
        )

    def _restore_step(self, like: PyTree, step: int) -> Checkpoint:
        folder = self.directory / str(step)
        if not folder.is_dir():
            raise CheckpointError(
                f"no checkpoint of step {step} in {self.directory}; there are steps {self.steps()}"
            )
        self._verify(folder)
        try:
            restored: Any = self._manager.restore(
                step, args=ocp.args.Composite(run=ocp.args.JsonRestore())
            )
            run = restored.run
            leaves, position = run["leaves"], _decode_position(run["data_position"])
        except Exception as error:
            raise _unreadable(folder, error) from error
        _check_same_leaves(folder, leaves, _describe(like))
        if run["config_digest"] != self._config_digest:
            logging.warning("checkpoint %s was written under another config", folder)
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)))
            restored = self._manager.restore(step, args=args)
            state = restored.state
        except Exception as error:
            raise _unreadable(folder, error) from error
        return Checkpoint(step, state, position, run["metrics"], run["unlogged"])

    def _verify(self, folder: AnyPath) -> None:
        """Raises CorruptFolderError, on every process alike; one reads the files."""
        reason = ""
        if is_primary() or not self._every_process:
            try:
                verify_checksums(folder)
            except CorruptFolderError as error:
                reason = str(error) or "unknown reason"
        corrupt = broadcast(bool(reason)) if self._every_process else bool(reason)
        if corrupt:
            raise CorruptFolderError(reason or "see the first process")

    def _set_aside(self, step: int) -> None:
        if is_primary():
            target = epath.Path(self.directory / f"{step}.corrupt")
            target.rmtree(missing_ok=True)
            epath.Path(self.directory / str(step)).rename(target)
        if self._every_process:
            barrier("set aside a corrupt checkpoint")
        self._manager.reload()

    def _read_metrics(self, step: int) -> dict[str, float]:
        try:
            text = (self.directory / str(step) / "run" / "metadata").read_text()
            return {name: float(value) for name, value in json.loads(text)["metrics"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _drafts(self) -> list[AnyPath]:
        """What a save has written so far: in a bucket under the final name already, without the
        marker that makes it a checkpoint.
        """
        if isinstance(self.directory, pathlib.Path):
            return sorted(self.directory.glob("*.orbax-checkpoint-tmp*"))
        draft = self.directory / str(self._saving)
        return [draft] if draft.exists() else []

    def _write_checksums(self) -> None:
        """Runs when all items are written and the folder does not have its final name yet."""
        if not is_primary():
            return
        for draft in self._drafts():
            write_checksums(draft)

    def _save_failure(self, error: Exception) -> CheckpointError:
        for draft in self._drafts():
            with contextlib.suppress(OSError):
                epath.Path(draft).rmtree()
        step, self._saving = self._saving, None
        if step is not None:
            self._retention.scores.pop(step, None)
        self._manager.reload()
        kept = f"step {self.steps()[-1]} is intact" if self.steps() else "none was saved before"
        return CheckpointError(
            f"cannot save the checkpoint of step {step} in {self.directory}: {_cause(error)}; "
            f"{kept}: make room, run again"
        )


def _drop_orbax_chatter(record: standard_logging.LogRecord) -> bool:
    """Drops orbax's notes, and its tracebacks of errors that reach the user as a
    CheckpointError.
    """
    return "orbax" not in record.pathname or (
        record.levelno >= standard_logging.ERROR and not record.exc_info
    )


def _drop_unretrieved(record: standard_logging.LogRecord) -> bool:
    """Drops what asyncio says of the further writes that failed together with one that was
    reported.
    """
    return "exception was never retrieved" not in record.getMessage()


def _drop_late_callbacks() -> None:
    """After a failed save tensorstore tells an event loop that is closed of each write that it gave
    up, and prints a traceback each time; the CheckpointError has said all.
    """
    before = sys.unraisablehook
    if getattr(before, "drops_late_callbacks", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    hook.drops_late_callbacks = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.unraisablehook = hook


def check_name(directory: pathlib.Path) -> None:
    """Checks that a folder's path is one that checkpoints can be found under again: orbax searches
    with patterns, in which some characters stand for others.

    Raises:
      CheckpointError: names the character.
    """
    path = buckets.direct(directory) or str(directory.absolute())
    special = [character for character in "[]*?\\" if character in path]
    if special or not path.isprintable():
        shown = path.encode("utf-8", "backslashreplace").decode()
        what = f"holds {special[0]!r}" if special else "has characters that cannot be printed"
        raise CheckpointError(
            f"checkpoints cannot be kept in {shown}: the path {what}; choose another --workdir"
        )


def _unreadable(folder: AnyPath, error: Exception) -> CheckpointError:
    """For a checkpoint whose files are as they were written: it stays where it is."""
    return CheckpointError(
        f"checkpoint {folder} cannot be read ({_first_line(error)}), though its files are as they "
        "were written; nothing was changed: run again, or with the version that wrote it"
    )


def _place(directory: str | os.PathLike) -> AnyPath:
    """Where checkpoints go: into the bucket itself where the folder is the copy of a bucket's."""
    path = pathlib.Path(directory).absolute()
    check_name(path)
    address = buckets.direct(path)
    if address is not None:
        return epath.Path(address)
    _check_writable(path)
    return path


def _check_writable(directory: pathlib.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints to {directory}: {error.strerror}; choose another --workdir"
        ) from error


def _encode_position(position: Any) -> dict[str, Any]:
    if isinstance(position, bytes):
        return {"base64": base64.b64encode(position).decode()}
    return {"json": position}


def _decode_position(position: Mapping[str, Any]) -> Any:
    return base64.b64decode(position["base64"]) if "base64" in position else position["json"]


def _describe(tree: PyTree) -> dict[str, list]:
    """Leaf name to [shape, type], JSON-able."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _check_same_leaves(
    folder: AnyPath, saved: Mapping[str, list], wanted: Mapping[str, list]
) -> None:
    for name in [*wanted, *saved]:
        there, here = (
            "absent" if name not in side else f"{tuple(side[name][0])} {side[name][1]}"
            for side in (saved, wanted)
        )
        if there != here:
            raise CheckpointError(
                f"checkpoint {folder} is of another model: {name} is {there} there and {here} "
                "here; "
                "use the config it was trained with, or another --workdir"
            )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _cause(error: BaseException) -> str:
    """The operating system's own words, wherever in the chain or the text of a library's error they
    are.
    """
    while not isinstance(error, OSError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = [
        os.strerror(code)
        for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS)
    ]
    return next((text for text in known if text in str(error)), _first_line(error))
