"""Several processes on this machine as one job: how the tests run many hosts, and how one machine
runs a process for each GPU.

    python -m launch.local --processes=4 --cpu_devices=2 -- \\
        --config=configs/quickstart.py --workdir=runs/quickstart

Everything after -- goes to `python -m v2l_jax.main`, with --coordinator, --num_processes and
--process_id added. Process 0 writes to this terminal, the others to process_<i>.log in --logs. With
--cpu_devices each process has so many simulated CPU devices; with --gpus_per_process, so many of
the GPUs, in order.

The job's end is that of the first process to fail, which is named; the others are then stopped.
With --retries a job that was told to stop and saved (SIGTERM, exit code 143) or that failed is
started again, up to so many times.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from v2l_jax.ops import cpu_settings

PREEMPTED = 128 + signal.SIGTERM
GRACE_SECONDS = 60
"""How long the others may go on after the first has saved and stopped."""


def main() -> int:
    """Parses the command line, runs the job, returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cpu_devices", type=int, default=0)
    parser.add_argument("--gpus_per_process", type=int, default=0)
    parser.add_argument("--logs", type=pathlib.Path, help="folder; default: a new temporary one")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("arguments", nargs="*", help="after --: what v2l_jax.main gets")
    options = parser.parse_args()
    options.logs = options.logs or pathlib.Path(tempfile.mkdtemp(prefix="v2l_jax_"))
    options.logs.mkdir(parents=True, exist_ok=True)
    for left in range(options.retries, -1, -1):
        code = run(options)
        if code == 0 or not left:
            break
        print(
            f"the job ended with {code}; starting it again, {left} times at most", file=sys.stderr
        )
    return code


def run(options: argparse.Namespace) -> int:
    """One attempt: starts every process, waits for the end, returns its exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [_start(options, index, coordinator) for index in range(options.processes)]
    for index, process in enumerate(processes):
        print(
            f"process {index}: pid "
            f"{process.pid}{f', {_log(options.logs, index)}' if index else ''}",
            file=sys.stderr,
        )

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)

    previous = {
        number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return _wait(processes, options.logs)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(options: argparse.Namespace, index: int, coordinator: str) -> subprocess.Popen:
    environment = dict(os.environ)
    if options.cpu_devices:
        flag = f"--xla_force_host_platform_device_count={options.cpu_devices}"
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{environment.get('XLA_FLAGS', '')} {flag}".strip(),
        }
    settings = cpu_settings.recommended(environment)
    if settings and not index:
        print(cpu_settings.described(settings), file=sys.stderr)
    environment |= settings
    if options.gpus_per_process:
        first = index * options.gpus_per_process
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(
            str(first + gpu) for gpu in range(options.gpus_per_process)
        )
    flags = [
        f"--coordinator={coordinator}",
        f"--num_processes={options.processes}",
        f"--process_id={index}",
    ]
    command = [sys.executable, "-m", "v2l_jax.main", *options.arguments, *flags]
    if index == 0:
        return subprocess.Popen(command, env=environment)
    with _log(options.logs, index).open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _log(logs: pathlib.Path, index: int) -> pathlib.Path:
    return logs / f"process_{index}.log"


def _wait(processes: list[subprocess.Popen], logs: pathlib.Path) -> int:
    """Waits until all have ended well, or one has not, or GRACE_SECONDS after one was preempted."""
    deadline = float("inf")
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code not in (None, 0, PREEMPTED)]
        if failed:  # of several, the one that was killed made the others fail
            index = min(failed, key=lambda index: codes[index] != -signal.SIGKILL)
            return _report(index, processes[index].pid, codes[index], logs)
        if None not in codes:
            return max(codes)
        if PREEMPTED in codes:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(0.1)
    print(
        f"some processes still ran {GRACE_SECONDS} s after another was told to stop; they were "
        "killed",
        file=sys.stderr,
    )
    return PREEMPTED


def _report(index: int, pid: int, code: int, logs: pathlib.Path) -> int:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    print(f"process {index} (pid {pid}) {how}; stopping the others", file=sys.stderr)
    if index:
        lines = _log(logs, index).read_text(errors="replace").splitlines()[-20:]
        print(f"the end of {_log(logs, index)}:", *lines, sep="\n  ", file=sys.stderr)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
