"""Starts a command with the environment variables that make JAX faster on this machine's CPU.

    python -m launch.environment python -m v2l_jax.main --config=configs/quickstart.py

Prints one line that says what it set; where there is nothing to set, such as on a machine with an
accelerator, it prints nothing. V2L_JAX_CPU_SETTINGS=off sets nothing. See
`v2l_jax.ops.cpu_settings` for the variables and why.
"""

import os
import sys

from v2l_jax.ops import cpu_settings


def main() -> None:
    """Prints what is set and becomes the command."""
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        sys.exit(__doc__)
    settings = cpu_settings.recommended(os.environ)
    if settings:
        print(cpu_settings.described(settings), file=sys.stderr, flush=True)
    try:
        os.execvpe(command[0], command, os.environ | settings)
    except OSError as error:
        sys.exit(f"error: cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
