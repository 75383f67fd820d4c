"""The watchdog bites a process that hangs, and only that."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(body):
    code = f"import time\nfrom v2l_jax.training.watchdog import Watchdog\n{body}\nprint('lived')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_hanging_process_ends_and_shows_where():
    bitten = run("def stuck():\n    time.sleep(50)\nwith Watchdog(0.3):\n    stuck()")
    assert bitten.returncode == 1 and bitten.stdout == ""
    assert "in stuck" in bitten.stderr


def test_a_fed_one_and_one_that_left_live():
    fed = run(
        "with Watchdog(1.0) as dog:\n    for _ in range(15):\n        time.sleep(0.1); "
        "dog.feed()\ntime.sleep(1.2)"
    )
    assert fed.returncode == 0 and fed.stdout == "lived\n", fed.stderr


def test_nought_seconds_wait_for_ever():
    assert run("with Watchdog(0) as dog:\n    dog.feed()").stdout == "lived\n"
