"""python -m launch.bundle --python=3.12 --platform=manylinux_2_28_x86_64 --out=bundle/
    [--stages=tests,train,tokenize,incontext,phases,mini] [--has=freeze.txt]

Collects what a machine without network needs to run stages of this project: the code as committed,
the wheels that the machine lacks, and the assets of the stages, made small. There,
`bundle/run --stages=train,mini --budget=480` runs them: see `launch.stages`.

`--has` names a file with what the machine has, as `python -m pip freeze` prints it there, or the
packages themselves with commas between; by default JAX and what it needs. JAX itself is never
bundled: which one is right depends on the accelerator. The versions bundled are those installed
here. Run it from a checkout in the project's environment.
"""

import argparse
import lzma
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Collection

from launch import bundle_assets, bundle_wheels
from launch.stages import STAGES, Place, chosen
from v2l_jax.errors import V2LError

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
              "manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")  # fmt: skip


def collect(options: argparse.Namespace) -> None:
    """Writes the bundle.

    Raises:
      V2LError, ValueError: in one line, what is missing.
    """
    out, stages = options.out.resolve(), chosen(options.stages)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; remove it or choose another --out")
    present = frozenset(bundle_wheels.OF_JAX)
    if options.has:
        file = pathlib.Path(options.has)
        listed = file.read_text(encoding="utf-8") if file.is_file() else options.has
        present |= bundle_wheels.parsed(listed)
    packages = bundle_wheels.lacking(options.python, present)
    out.mkdir(parents=True, exist_ok=True)
    _write_code(out)
    _told(out, "code.tar.xz")
    bundle_wheels.download(packages, options.python, options.platform, out / "wheels")
    _told(out, "wheels")
    _write_assets(out, {name for stage in stages for name in stage.assets})
    _told(out, "assets.tar.xz")
    print(f"{out}: {_megabytes(out):.1f} MB; run it there with {out.name}/run")


def _write_code(out: pathlib.Path) -> None:
    archive = ["git", "archive", "--format=tar", "HEAD"]
    ended = subprocess.run(archive, cwd=bundle_wheels.ROOT, capture_output=True, check=False)
    if ended.returncode:
        reason = ended.stderr.decode(errors="replace").strip()
        raise ValueError(f"the code is archived from a git checkout: {reason}")
    (out / "code.tar.xz").write_bytes(lzma.compress(ended.stdout))
    shutil.copyfile(bundle_wheels.ROOT / "launch" / "bundle_run.py", out / "run")
    (out / "run").chmod(0o755)


def _write_assets(out: pathlib.Path, needed: Collection[str]) -> None:
    place = Place(out, tiny=False)
    (out / "assets").mkdir()
    for name, write in bundle_assets.WRITERS.items():
        if name in needed:
            write(place)
            _told(out / "assets", name)
    with tarfile.open(out / "assets.tar.xz", "w:xz") as archive:
        for path in sorted((out / "assets").iterdir()):
            archive.add(path, path.name)
    shutil.rmtree(out / "assets")


def _told(folder: pathlib.Path, name: str) -> None:
    print(f"{name}: {_megabytes(folder / name):.1f} MB", flush=True)


def _megabytes(path: pathlib.Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    """Parses the command line; an error meant for the user is one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument(
        "--platform", type=lambda text: text.split(","), default=list(_PLATFORMS),
        help="tags of the machine's wheels, with commas between",
    )  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas between")
    parser.add_argument("--has", default="", help="a file or list of packages that are there")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        collect(options)
    except (V2LError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"made in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
