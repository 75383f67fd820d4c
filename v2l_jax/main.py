"""python -m v2l_jax.main --config=configs/quickstart.py [--workdir=runs/quickstart]
    [--config.key=value …]

Runs `config.jobs` in order: codebook (words and their vectors), train (the visual tokenizer),
tokenize (images to words), finetune (adapters), evaluate (numbers), sweep (trainings compared),
release (files to hand on), report (a page). A job whose output is in the workdir is skipped; a
killed one goes on where it was. `--config.jobs=evaluate,report` runs only those.

On several hosts start the same command on each, with --distributed, over one shared workdir. A run
that is told to stop (SIGTERM) saves and exits with 143: start it again.
"""

import contextlib
import os
import pathlib
import sys

from absl import app, flags, logging

from v2l_jax import command_line, experiment, options
from v2l_jax.errors import V2LError
from v2l_jax.jobs import runner
from v2l_jax.parallel import processes

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything the run makes, also gs://bucket/folder. Default: runs/<config name>.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other hosts' processes; the cluster (TPU, Slurm, MPI) says where.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where no cluster says it; implies --distributed."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
_COORDINATOR_SECONDS = flags.DEFINE_float(
    "coordinator_seconds", 25.0, "How long to try to reach --coordinator.", lower_bound=0.1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def main(argv: list[str]) -> None:
    """Runs the jobs; an error meant for the user is printed as one line and exits with 1."""
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {' '.join(argv[1:])}")
    path = flags.FLAGS.config
    if path is None:
        raise app.UsageError("--config is missing; try --config=configs/quickstart.py")
    try:
        config = command_line.load_config()
        stem = pathlib.Path(path.partition(":")[0]).stem
        place = _WORKDIR.value or os.path.join("runs", stem)
        runner.start()
        several = _DISTRIBUTED.value or _COORDINATOR.value is not None
        given = (
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            _COORDINATOR_SECONDS.value,
        )
        with processes.joined(*given) if several else contextlib.nullcontext():
            processes.check_devices()
            with runner.folder(place) as workdir:
                runner.run_jobs(config, workdir)
    except V2LError as error:
        logging.flush()
        sys.exit(f"error: {error}")


def _help() -> str:
    names = ("config", "workdir", "distributed", "coordinator", "coordinator_seconds")
    names += ("num_processes", "process_id")
    shown = "\n".join(f"  --{name}: {flags.FLAGS[name].help}" for name in names)
    return (
        f"{__doc__}\n{shown}\n\nEvery option, with its "
        f"default:\n\n{options.describe(experiment.known())}"
    )


if __name__ == "__main__":
    command_line.define_config()
    sys.argv[0] = "python -m v2l_jax.main"
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(_help())
        sys.exit(0)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    app.run(main, flags_parser=command_line.parse_flags)
