"""Checkpoints under damage and kills: `python -m tests.fuzz.checkpoints --damages 200 --kills 25`.

A damage changes a random file of the newest checkpoint; a kill is SIGKILL at a random moment of a
process that saves one after the other. Each time the newest whole checkpoint must come back, every
number as it was saved.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax.numpy as jnp
import numpy as np
from absl import logging

from tests.fuzz.mutations import damaged
from v2l_jax.training.checkpoints import Checkpointer


def state(step: int) -> dict[str, jnp.ndarray]:
    """Numbers that tell the steps apart."""
    return {"w": jnp.arange(50_000.0) + step, "step": jnp.int32(step)}


def newest(folder: pathlib.Path) -> int:
    """The step that is restored, after a check of every number; 0 where there is none."""
    with Checkpointer(folder) as checkpointer:
        if not checkpointer.steps():
            return 0
        found = checkpointer.restore(state(0))
    np.testing.assert_array_equal(found.state["w"], state(found.step)["w"])
    assert found.data_position == {"record": found.step}
    return found.step


def save(folder: pathlib.Path, steps: range, told: bool = False) -> None:
    """Saves one checkpoint after the other; tells the last one that is certain."""
    with Checkpointer(folder) as checkpointer:
        for step in steps:
            checkpointer.save(step, state(step), data_position={"record": step})
            checkpointer.wait()
            if told:
                print(step, flush=True)


def damage(rng: random.Random) -> str:
    """One damage of step 2 of two; what came of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        save(folder, range(1, 3))
        files = sorted(path for path in (folder / "2").rglob("*") if path.is_file())
        victim = rng.choice(files)
        content = victim.read_bytes()
        changed = damaged(content, [content], rng) if rng.random() < 0.8 else None
        if changed is None:
            victim.unlink()
        else:
            victim.write_bytes(changed)
        step = newest(folder)
        assert step == 1 or step == 2, step
        return f"step {step}"


def kill(rng: random.Random) -> str:
    """One kill; what came of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        command = [sys.executable, "-m", "tests.fuzz.checkpoints", "--save", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # the first checkpoint is certain
        time.sleep(rng.uniform(0, 2))
        os.kill(process.pid, signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        certain = int(lines[-1]) if lines else 1
        step = newest(folder)
        assert step >= certain, f"step {certain} was certain, but {step} came back"
        return "whole"


def main() -> None:
    """Runs the damages and the kills; an assertion fails where a number is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--save", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    if given.save:
        save(given.save, range(1, 10_000), told=True)
        return
    rng = random.Random(given.seed)
    for name, count, try_once in (("damages", given.damages, damage), ("kills", given.kills, kill)):
        began, outcomes = time.monotonic(), [try_once(rng) for _ in range(count)]
        counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
        print(f"{name}: {count} of {count}: {counts}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
