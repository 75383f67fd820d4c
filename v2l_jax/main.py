"""python -m v2l_jax.main --config=configs/quickstart.py [--workdir=runs/quickstart] [--config.key=value …]

Runs `config.jobs` in order: codebook (words and their vectors), train (the local tokenizer),
tokenize (photos to words), finetune (adapters), evaluate (numbers), report (a page). A job whose
output is in the workdir is skipped; a killed one goes on where it was.
`--config.jobs=evaluate,report` runs only those. `--config.profile=21,23` traces those training
steps for TensorBoard or XProf.

On several hosts start the same command on each, with --distributed, over one shared workdir. A run
that is told to stop (SIGTERM) saves and exits with 143: start it again.
"""

import contextlib
import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from v2l_jax.errors import V2LError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, such as configs/quickstart.py; override a value with --config.path.to.key=value.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for everything the run makes. Default: runs/<config name>."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other hosts' processes; the cluster (TPU, Slurm, MPI) says where they are.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where no cluster says it; implies --distributed."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes there are, with --coordinator."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is, from 0, with --coordinator."
)


def main(argv: list[str]) -> None:
    """Runs the jobs; an error meant for the user is printed as one line and exits with 1."""
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {' '.join(argv[1:])}")
    if _CONFIG.value is None:
        raise app.UsageError("--config is missing; try --config=configs/quickstart.py")
    path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    if not path.is_file():
        sys.exit(f"error: there is no config file {path}; see the folder configs")
    workdir = pathlib.Path(_WORKDIR.value or os.path.join("runs", path.stem))
    try:
        from v2l_jax.jobs import runner
        from v2l_jax.parallel import processes

        runner.start()
        several = _DISTRIBUTED.value or _COORDINATOR.value is not None
        given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        with processes.joined(*given) if several else contextlib.nullcontext():
            runner.run_jobs(_CONFIG.value, workdir)
    except V2LError as error:
        logging.flush()
        sys.exit(f"error: {error}")


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a bad one ends the program with one line, naming the nearest known key where
    there is one.
    """
    try:
        return flags.FLAGS(argv)
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        ImportError,
    ) as error:
        message = str(error.args[0] if error.args else error).strip().splitlines()
        sys.exit(f"error: {' '.join(line.strip() for line in message)}")


if __name__ == "__main__":
    sys.argv[0] = "python -m v2l_jax.main"
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(__doc__)
        names = ("config", "workdir", "distributed", "coordinator", "num_processes", "process_id")
        print("\n".join(f"  --{name}: {flags.FLAGS[name].help}" for name in names))
        sys.exit(0)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    app.run(main, flags_parser=_parse_flags)
