"""A training run on storage that fails: `python -m tests.fuzz.storage [FAULT …]`, as root on Linux.

Each fault is a real one: a file system of a few megabytes, a mount that is read-only, a user's
quota, a limit on the size of files, writes that the system answers with EIO, a clock that jumps,
two processes in one folder. The run must end with one line and exit status 1 (a clock: go on);
once the fault is gone, the same command must end with the metrics of a run that never failed.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from tests import synthetic_config

_PRELOAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>
static int fails(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  const char *folder = getenv("FAILING_FOLDER"), *name = getenv("FAILING_NAME");
  return folder && name && !strncmp(path, folder, strlen(folder)) && strstr(path, name);
}
ssize_t write(int fd, const void *p, size_t n) {
  ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  if (fails(fd)) { errno = EIO; return -1; }
  return real(fd, p, n);
}
ssize_t pwrite(int fd, const void *p, size_t n, off_t o) {
  ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
  if (fails(fd)) { errno = EIO; return -1; }
  return real(fd, p, n, o);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off_t o) { return pwrite(fd, p, n, o); }
int fsync(int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
  if (fails(fd)) { errno = EIO; return -1; }
  return real(fd);
}
"""


def start(workdir: pathlib.Path, flags: list[str], before: list[str], **more: str):
    """Starts the training run, `before` being a program that starts it."""
    command = [*before, sys.executable, "-W", "ignore", "-m", "v2l_jax.main", *flags]
    return subprocess.Popen(
        command, env=os.environ | more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """The exit status, and the last line that was said."""
    _, said = process.communicate(timeout=300)
    assert "Traceback" not in said, said[-3000:]
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) <= 1 and (not lines or said.splitlines()[-1] == lines[0]), said[-3000:]
    return process.returncode, lines[0] if lines else ""


def metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """What training logged, without what depends on the clock."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "per_second", "eta", "time", "wait", "mfu", "memory", "steps_per", "flop")
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in rows]


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *how: str) -> Iterator[None]:
    """Mounts at a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", *how, str(folder))
    try:
        yield
    finally:
        run("umount", "--lazy", str(folder))


def run(*command: str) -> str:
    """A command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Trials:
    """Faults to try; each method is one, and yields nothing but raises where something is lost."""

    def __init__(self, place: pathlib.Path):
        self.place = place
        self.sound = place / "sound"
        flags = synthetic_config.fill(self.sound)
        assert ended(start(self.sound, flags, [])) == (0, "")
        self.expected = metrics(self.sound)

    def fails(
        self, workdir: pathlib.Path, flags: list[str], words: str, before: list[str], **more: str
    ) -> None:
        """The run ends with one line that has these words."""
        status, line = ended(start(workdir, flags, before, **more))
        assert status == 1 and words in line, (status, line)
        print(f"  {line}", flush=True)

    def goes_on(self, workdir: pathlib.Path, flags: list[str]) -> None:
        """The same command ends well, with the metrics of the run that never failed."""
        status, line = ended(start(workdir, flags, []))
        assert (status, line) == (0, ""), (status, line)
        assert metrics(workdir) == self.expected

    def full(self) -> None:
        """A tmpfs of a few sizes, and the same one made larger."""
        for kilobytes in (400, 1200, 3000):
            workdir = self.place / f"full-{kilobytes}"
            with mounted(workdir, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
                flags = synthetic_config.fill(workdir)
                used = int(run("du", "-sk", str(workdir)).split()[0])
                run("mount", "-o", f"remount,size={used + kilobytes}k", str(workdir))
                self.fails(workdir, flags, "No space left on device", [])
                run("mount", "-o", "remount,size=64m", str(workdir))
                self.goes_on(workdir, flags)

    def read_only(self) -> None:
        """A mount that is read-only from the start, and one that the kernel gives up under way."""
        workdir = self.place / "read-only"
        with mounted(workdir, "-t", "tmpfs", "tmpfs"):
            flags = synthetic_config.fill(workdir)
            run("mount", "-o", "remount,ro", str(workdir))
            self.fails(workdir, flags, "Read-only file system", [])
            run("mount", "-o", "remount,rw", str(workdir))
            self.goes_on(workdir, flags)
        workdir, image = self.place / "aborted", self.formatted("aborted.img")
        with mounted(workdir, "-o", "loop", str(image)):
            flags = synthetic_config.fill(workdir)
            run("sync")  # what the run is given; what it writes, it syncs itself
            process = start(workdir, flags, [])
            while not (workdir / "metrics.jsonl").exists() and process.poll() is None:
                time.sleep(0.02)
            run("mount", "-o", "remount,abort", str(workdir))  # what ext4 does on a bad block
            status, line = ended(process)
            assert status == 1 and ("Read-only" in line or "Input/output" in line), (status, line)
            print(f"  {line}", flush=True)
        assert subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True).returncode <= 1
        with mounted(workdir, "-o", "loop", str(image)):
            self.goes_on(workdir, flags)

    def formatted(self, name: str, *options: str) -> pathlib.Path:
        """An ext4 file system of 64 MB in a file."""
        image = self.place / name
        with image.open("wb") as file:
            file.truncate(64 << 20)
        run("mkfs.ext4", "-q", *options, str(image))
        return image

    def quota(self) -> None:
        """A quota that is used up: of a btrfs subvolume, whose quotas bind root too."""
        image, mount = self.place / "quota.img", self.place / "btrfs"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        run("mkfs.btrfs", "-q", str(image))
        with mounted(mount, "-o", "loop", str(image)):
            workdir = mount / "quota"
            run("btrfs", "quota", "enable", str(mount))
            run("btrfs", "subvolume", "create", str(workdir))
            flags = synthetic_config.fill(workdir)
            run("sync")
            used = int(run("du", "-sk", str(workdir)).split()[0])
            run("btrfs", "qgroup", "limit", f"{used + 1200}K", str(workdir))
            self.fails(workdir, flags, "Disk quota exceeded", [])
            run("btrfs", "qgroup", "limit", "none", str(workdir))
            self.goes_on(workdir, flags)

    def file_size(self) -> None:
        """The shell's limit on the size of files."""
        workdir = self.place / "file-size"
        flags = synthetic_config.fill(workdir)
        self.fails(workdir, flags, "File too large", ["prlimit", "--fsize=100000"])
        self.goes_on(workdir, flags)

    def io_error(self) -> None:
        """EIO for what is written to a checkpoint, to the log of metrics, and to JSON files."""
        source, library = self.place / "eio.c", self.place / "eio.so"
        source.write_text(_PRELOAD)
        run("cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")
        for number, name in enumerate(("/checkpoints/", "metrics.jsonl", ".json")):
            workdir = self.place / f"eio-{number}"
            flags = synthetic_config.fill(workdir)
            failing = {"FAILING_FOLDER": str(workdir), "FAILING_NAME": name}
            self.fails(workdir, flags, "Input/output error", [], LD_PRELOAD=str(library), **failing)
            self.goes_on(workdir, flags)

    def clock(self) -> None:
        """A clock that jumps back a day, then forward four hundred, while it trains."""
        workdir, times = self.place / "clock", self.place / "time"
        flags = synthetic_config.fill(workdir)
        library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        times.write_text("+0")
        fake = {"FAKETIME_TIMESTAMP_FILE": str(times), "FAKETIME_NO_CACHE": "1"}
        fake |= {"LD_PRELOAD": str(library), "DONT_FAKE_MONOTONIC": "1"}
        process = start(workdir, flags, [], **fake)
        for jump in ("-1d", "+400d"):
            before = (workdir / "metrics.jsonl").exists() and len(metrics(workdir))
            while process.poll() is None:
                logged = workdir / "metrics.jsonl"
                if logged.exists() and len(logged.read_text().splitlines()) > before:
                    break
                time.sleep(0.05)
            times.write_text(jump)
        assert ended(process) == (0, "") and metrics(workdir) == self.expected
        seconds = json.loads((workdir / "timings.json").read_text())["train"]
        assert 0 < seconds < 600, seconds
        print(f"  {seconds} s noted", flush=True)

    def two_runs(self) -> None:
        """Two processes in one folder at once: one trains, one is refused."""
        workdir = self.place / "two"
        flags = synthetic_config.fill(workdir)
        both = [start(workdir, flags, []) for _ in range(2)]
        (first, line), (second, other) = sorted(map(ended, both))
        assert (first, line, second) == (0, "", 1) and "another run is writing" in other
        print(f"  {other}", flush=True)
        assert metrics(workdir) == self.expected


def main() -> None:
    """Tries the faults named, or all."""
    faults: dict[str, Callable[[Trials], None]] = {
        name: method for name, method in vars(Trials).items() if method.__doc__ and name[0] != "_"
    }
    for name in ("fails", "formatted", "goes_on"):
        del faults[name]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(faults), help=", ".join(faults))
    given = parser.parse_args()
    place = pathlib.Path(tempfile.mkdtemp(prefix="v2l_jax-storage-"))
    try:
        trials = Trials(place)
        for name in given.faults:
            print(f"{name}:", flush=True)
            began = time.monotonic()
            faults[name](trials)
            print(f"{name}: nothing lost, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
