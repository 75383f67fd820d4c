"""python -m v2l_jax.main --config=configs/quickstart.py [--workdir=runs/quickstart] [--config.key=value …]

Runs `config.jobs` in order: codebook (words and their vectors), train (the local tokenizer), tokenize (photos to
words), evaluate (numbers), report (a page). A job whose output is in the workdir is skipped; a killed one goes on
where it was. `--config.jobs=evaluate,report` runs only those.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from v2l_jax.errors import V2LError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, such as configs/quickstart.py; override a value with --config.path.to.key=value."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run makes. Default: runs/<config name>.")


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

        runner.start()
        runner.run_jobs(_CONFIG.value, workdir)
    except V2LError as error:
        logging.flush()
        sys.exit(f"error: {error}")


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a bad one ends the program with one line, naming the nearest known key where there is one."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        message = str(error.args[0] if error.args else error).strip().splitlines()
        sys.exit(f"error: {' '.join(line.strip() for line in message)}")


if __name__ == "__main__":
    sys.argv[0] = "python -m v2l_jax.main"
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(__doc__)
        print("\n".join(f"  --{name}: {flags.FLAGS[name].help}" for name in ("config", "workdir")))
        sys.exit(0)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    app.run(main, flags_parser=_parse_flags)
