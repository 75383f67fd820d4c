"""How long a training takes to the end of its first step, and where that goes.

python -m launch.environment python -m benchmarks.first_step [--config.train.batch_size=…]

Two processes, one after the other, over random images and codebooks of the sizes that
`benchmarks.train` has: the first with empty caches, the second with what the first left (XLA's
programs; on a GPU also which algorithms it found fastest). Each makes the state, compiles the step
and takes one. Seconds are from there being a config to the step's end; importing is not counted.
CPU seconds are those of all threads: on a busy machine they are the ones to compare.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from v2l_jax import command_line
from v2l_jax.ops import cpu_settings
from v2l_jax.run import building, loading

HEAD = ("first step", "seconds", "CPU seconds", "making the state", "compiling", "the step")
CACHES = ("caches empty", "caches filled")

_OWN_CACHE = "FIRST_STEP_CACHE"


def measured(config: ConfigDict, word_dim: int, local_words: int, global_words: int) -> dict:
    """Seconds of each part in this process, "state", "compile" and "step", and "cpu" of all."""
    random = np.random.default_rng(0)
    counts = {"local": local_words, "global": global_words}
    words = {name: random.normal(size=(n, word_dim)).astype("f4") for name, n in counts.items()}
    tokenizer, mesh = building.tokenizer(config, words), loading.shared_mesh(config)
    lpips, cpu, clock = building.lpips_params(config), _cpu_seconds(), [time.perf_counter()]
    trainer = building.trainer(config, tokenizer, 1, mesh)
    frozen = trainer.placed_frozen(building.frozen_inputs(tokenizer, words, lpips))
    state = jax.block_until_ready(trainer.placed_state())
    clock.append(time.perf_counter())
    shapes = trainer.batch_shapes(config.train.batch_size)
    batch = {n: random.uniform(-1, 1, x.shape).astype("f4") for n, x in shapes.items()}
    step = trainer.step_function().lower(state, batch, frozen).compile()
    clock.append(time.perf_counter())
    jax.block_until_ready(step(state, batch, frozen))
    clock.append(time.perf_counter())
    parts = dict(zip(("state", "compile", "step"), np.diff(clock).tolist(), strict=True))
    return parts | {"cpu": _cpu_seconds() - cpu}


def rows(arguments: Sequence[str]) -> Iterator[list[str]]:
    """A line of the table for empty and for filled caches.

    Args:
      arguments: of the command line, as `main` knows them.

    Raises:
      RuntimeError: a process failed; its own output says why.
    """
    with tempfile.TemporaryDirectory(prefix="v2l_jax_") as cache:
        for caches in CACHES:
            result = pathlib.Path(cache) / "seconds.json"
            command = [sys.executable, "-m", "benchmarks.first_step", *arguments]
            settings = {_OWN_CACHE: cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            ended = subprocess.run(command, env=os.environ | settings, check=False)
            if ended.returncode:
                raise RuntimeError(f"the first step with {caches} ended with {ended.returncode}")
            parts = json.loads(result.read_text())
            seconds = [parts[name] for name in ("state", "compile", "step")]
            cells = [f"{value:.1f}" for value in (sum(seconds), parts["cpu"], *seconds)]
            yield [caches, *cells]


def define_flags() -> None:
    """--config, and the sizes of the codebooks."""
    default = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"
    command_line.define_config(str(default))
    flags.DEFINE_integer("word_dim", 384, "Length of word vectors.")
    flags.DEFINE_integer("local_words", 8192, "Words in the local codebook.")
    flags.DEFINE_integer("global_words", 11_908, "Words in the global codebook.")


def main(argv: Sequence[str]) -> None:
    """Prints the table; or, in one of its own processes, measures and writes the result."""
    del argv
    given, cache = flags.FLAGS, os.environ.get(_OWN_CACHE)
    if cache is None:
        for cells in (HEAD, ["---"] * len(HEAD), *rows(sys.argv[1:])):
            print("| " + " | ".join(cells) + " |", flush=True)
        return
    cpu_settings.apply()
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    parts = measured(
        command_line.load_config(), given.word_dim, given.local_words, given.global_words
    )
    (pathlib.Path(cache) / "seconds.json").write_text(json.dumps(parts))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=command_line.parse_flags)
