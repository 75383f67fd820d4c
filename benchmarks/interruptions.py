"""Torture: a training that is killed again and again, at random moments, ends bit for bit like one
that was not.

    python -m benchmarks.interruptions [--kills=25] [--steps=500] [--seed=0]

Trains the real step on noise through the ordinary command (tests/synthetic_config.py). Once without
a break; then with SIGKILL after random delays, a checkpoint every other step so that many kills
meet one half written, until `--kills` were survived. Prints how many, how many of them left a
half-written checkpoint behind, and whether the final states and the metric rows are the same bits.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from tests import synthetic_config
from v2l_jax.run import building
from v2l_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
    """Runs both trainings and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument(
        "--steps",
        type=int,
        default=500,
        help="a training so short that it ends before all kills counts as failed",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    steps = options.steps
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = pathlib.Path(folder, "whole"), pathlib.Path(folder, "broken")
        settings = [
            f"--config.train.steps={steps}",
            "--config.train.checkpoint_every=2",
            "--config.train.eval_every=50",
        ]
        began = time.monotonic()
        _start(whole, [*synthetic_config.fill(whole), *settings]).wait()
        unbroken_seconds = time.monotonic() - began
        kills, drafts = _torture(broken, [*synthetic_config.fill(broken), *settings], options)
        states = [_final_state(workdir, steps) for workdir in (whole, broken)]
        same_state = all(
            np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, states), strict=True)
        )
        same_rows = (
            len({(workdir / "metrics.jsonl").read_bytes() for workdir in (whole, broken)}) == 1
        )
    result = {
        "steps": steps,
        "kills": kills,
        "kills_with_a_half_written_checkpoint": drafts,
        "final_state_is_the_same_bits": same_state,
        "metric_rows_are_the_same_bytes": same_rows,
        "seconds_without_a_break": round(unbroken_seconds, 1),
    }
    print(json.dumps(result, indent=2))
    sys.exit(0 if same_state and same_rows and kills >= options.kills else 1)


def _torture(
    workdir: pathlib.Path, flags: list[str], options: argparse.Namespace
) -> tuple[int, int]:
    """Starts the run until it ends, killing it soon after it trains; returns how often, and how
    often amid a save.
    """
    chance, kills, drafts = random.Random(options.seed), 0, 0
    while True:
        process = _start(workdir, flags)
        if kills < options.kills:
            _wait_for_progress(workdir, process)
            time.sleep(chance.uniform(0.0, 0.7))
        else:
            process.wait()
        if process.poll() is not None:
            return kills, drafts
        process.kill()
        process.wait()
        kills += 1
        drafts += any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
        print(f"kill {kills}: at step {_last_step(workdir)}", file=sys.stderr)


def _start(workdir: pathlib.Path, flags: list[str]) -> subprocess.Popen:
    with (workdir / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "v2l_jax.main", *flags], cwd=ROOT, stdout=log, stderr=log
        )


def _wait_for_progress(workdir: pathlib.Path, process: subprocess.Popen) -> None:
    before = _last_step(workdir)
    while process.poll() is None and _last_step(workdir) <= before:
        time.sleep(0.02)


def _last_step(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=0) if path.exists() else 0


def _final_state(workdir: pathlib.Path, steps: int) -> object:
    config = synthetic_config.get_config()
    shapes = {
        name: jax.ShapeDtypeStruct((count, synthetic_config.DIM), np.float32)
        for name, count in (
            ("local", synthetic_config.LOCAL_WORDS),
            ("global", synthetic_config.GLOBAL_WORDS),
        )
    }
    tokenizer = building.tokenizer(config, shapes)
    trainer = building.trainer(config, tokenizer, synthetic_config.IMAGES)
    with trainer.checkpointer(building.checkpoints_folder(workdir)) as checkpoints:
        like = trainer.state_shapes
        return jax.device_get(checkpoints.restore(like, step=steps).state)


if __name__ == "__main__":
    main()
