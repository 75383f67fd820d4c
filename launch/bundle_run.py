#!/usr/bin/env python3
"""Runs stages of a bundle that `python -m launch.bundle` made, without network and without
installing anything: ./run --stages=tests,train,tokenize,incontext,phases,mini --budget=480

The python that runs this needs JAX for the machine's accelerator and pip; the bundle brings the
rest, unpacked beside this file the first time. `./run --help` names the stages.
"""

import os
import pathlib
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    """Unpacks what is not unpacked yet and becomes `python -m launch.stages`."""
    for name in ("code", "assets"):
        if not (HERE / name).is_dir():
            with tarfile.open(HERE / f"{name}.tar.xz") as archive:
                archive.extractall(HERE / f"{name}.partial", filter="data")
            (HERE / f"{name}.partial").rename(HERE / name)
    if not (HERE / "site").is_dir():
        wheels = sorted(map(str, (HERE / "wheels").glob("*.whl")))
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        target = ["--target", str(HERE / "site.partial")]
        install = [sys.executable, "-m", "pip", "install", *options, *target, *wheels]
        if wheels and subprocess.run(install, check=False).returncode:
            sys.exit("error: the wheels cannot be unpacked; see pip's message above")
        (HERE / "site.partial").mkdir(exist_ok=True)
        (HERE / "site.partial").rename(HERE / "site")
    paths = [str(HERE / "code"), str(HERE / "site"), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "launch.stages", f"--bundle={HERE}", *sys.argv[1:]]
    os.chdir(HERE / "code")
    os.execve(sys.executable, command, os.environ | settings)


if __name__ == "__main__":
    main()
