"""The stages of a bundle for machines without network, and how they are run; see `launch.bundle`.

Each stage is processes of its own with a limit of its own: one that fails or is stopped does not
end the others. They run in the order below, the most valuable first, until the budget is used up.
What a stage prints of a table is shown at once and kept in results/table.md; everything it prints
is in results/<stage>.log. Compiled programs, and on a GPU the algorithms found fastest, are kept in
cache/ between calls.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

VOCABULARY, LPIPS, PHOTOS, FEATURES = "vocabulary.gguf", "lpips.ckpt", "photos", "features"
"""Assets of a bundle, files or folders of assets/."""

_RELEASED = pathlib.Path(__file__).parents[1] / "v2l_jax" / "assets" / "released" / "v2l-mini"
_CPU_PATIENCE = 4  # limits are for an accelerator; a CPU compiles as long and has fewer cores
_LEAST_SECONDS = 5  # with less left, no stage is begun


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a bundle lies.

    Attributes:
      folder: with code/, assets/, cache/ and results/.
      tiny: sizes that a CPU runs in minutes, in place of an accelerator's.
    """

    folder: pathlib.Path
    tiny: bool

    @property
    def results(self) -> pathlib.Path:
        """The folder of logs, the table, and what stages write."""
        return self.folder / "results"

    def asset(self, name: str) -> pathlib.Path:
        """One of the bundle's assets."""
        return self.folder / "assets" / name


def _python(module: str, *arguments: str) -> list[str]:
    start = [sys.executable, "-m", "launch.environment", sys.executable, "-m", module]
    return [*start, *arguments]


def _tests(place: Place) -> list[list[str]]:
    rooms = ("ops", "metrics", "towers", "tokenizers", "training", "llm", "parallel")
    chosen = [f"tests/{room}" for room in (("ops", "metrics") if place.tiny else rooms)]
    options = ["-q", "-p", "tests.offline", "-m", "not mesh and not processes"]
    return [_python("pytest", *options, *chosen)]


def _passed(place: Place) -> list[str]:
    """Pytest's last line as a row of a table."""
    log = place.results / "tests.log"
    found = re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|error).*?) ?=*$", log.read_text(), re.M)
    return [f"| tests | {found[-1]} |"] if found else []


def _sizes(place: Place) -> list[str]:
    """Of the training benchmark's small tokenizer."""
    tiny = ["--config.model.image_size=64", "--config.train.batch_size=2", "--steps=1", "--turns=1"]
    tiny += ["--config.evaluate.batch_size=4", "--local_words=512", "--global_words=512"]
    full = ["--config.train.batch_size=64", "--config.evaluate.batch_size=256"]
    return ["--photos=False", *(tiny + ["--dtypes=float32"] if place.tiny else full)]


def _paper_sizes() -> list[str]:
    """Of the training benchmark's tokenizer of the paper."""
    sizes = ["--config=configs/imagenet.py", "--word_dim=768", "--local_words=32000"]
    batches = ["--config.train.batch_size=64", "--config.evaluate.batch_size=128"]
    return ["--photos=False", "--dtypes=bfloat16", *sizes, *batches]


def _train(place: Place) -> list[list[str]]:
    perceptual = f"--config.train.perceptual={place.asset(LPIPS)}"
    gan = "train_gan" if place.tiny else "train,train_gan"
    small = [f"--tasks={gan},first_step", perceptual, *_sizes(place)]
    paper = ["--tasks=train_gan", perceptual, *_paper_sizes()]
    return [_python("benchmarks.train", *sizes) for sizes in (small, *([paper] * (not place.tiny)))]


def _tokenize(place: Place) -> list[list[str]]:
    settings = ["--tasks=tokenize", "--config.train.perceptual="]
    sizes = [_sizes(place), *([_paper_sizes()] * (not place.tiny))]
    return [_python("benchmarks.train", *settings, *size) for size in sizes]


def _language_model(place: Place, *arguments: str) -> list[str]:
    sizes = ["--shape=llama2-7b", "--dtype=bfloat16"]
    if place.tiny:
        sizes = ["--shape=tiny", "--dtype=float32", "--token_budget=1024", "--phase_tokens=128"]
        sizes += ["--episodes=4", "--images=2", "--grid=4", "--repeats=1"]
    vocabulary = f"--vocabulary={place.asset(VOCABULARY)}"
    return _python("benchmarks.incontext", *sizes, vocabulary, *arguments)


def _incontext(place: Place) -> list[list[str]]:
    kinds = "few_shot,inpainting" if place.tiny else "few_shot,deblurring,inpainting,outpainting"
    return [_language_model(place, f"--kind={kinds}")]


def _phases(place: Place) -> list[list[str]]:
    return [_language_model(place, "--kind=phases", "--peer=False")]


def mini_settings(place: Place) -> list[tuple[str, str]]:
    """Options of the small tokenizer's training on the bundle's photos, path and text."""
    folders = sorted(p for p in place.asset(PHOTOS).iterdir() if p.is_dir())
    labelled = tuple(str(folder) for folder in folders)
    settings = {
        "jobs": "train",
        "llm": str(place.asset(VOCABULARY)),
        "data.labelled": repr(labelled),
        "data.unlabelled": "()",
        "data.rename_classes": "{}",
        "data.short_side": "0",
        "train.perceptual": str(place.asset(LPIPS)),
        "train.steps": "4" if place.tiny else "1200",
        "train.eval_every": "4" if place.tiny else "300",
        "train.checkpoint_every": "1000000",
        "train.batch_size": "2" if place.tiny else "32",
        "train.log_every": "2" if place.tiny else "20",
        "train.loader_workers": "0" if place.tiny else "8",
    }
    return list(settings.items())


def lay_words(workdir: pathlib.Path) -> None:
    """Puts the released small tokenizer's codebooks where a training looks for them."""
    (workdir / "codebook").mkdir(parents=True)
    for name in ("local", "global"):
        shutil.copyfile(
            _RELEASED / f"{name}_words.safetensors", workdir / "codebook" / f"{name}.safetensors"
        )


def _mini(place: Place) -> list[list[str]]:
    workdir = place.results / "mini"
    shutil.rmtree(workdir, ignore_errors=True)  # trained anew each time
    lay_words(workdir)
    shutil.copytree(place.asset(FEATURES), workdir / "features")
    settings = [f"--config.{path}={text}" for path, text in mini_settings(place)]
    config = ["--config=configs/v2l_mini.py", f"--workdir={workdir}"]
    return [_python("v2l_jax.main", *config, *settings)]


def _learnt(place: Place) -> list[str]:
    """The last evaluation and the pace of the training as rows of a table."""
    metrics, log = place.results / "mini" / "metrics.jsonl", place.results / "mini.log"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    evaluations = [row for row in map(json.loads, lines) if row["split"] == "eval"]
    numbers = ", ".join(
        f"{name} {evaluations[-1][name]:.3f}"
        for name in ("psnr", "ssim", "lpips")
        if evaluations and name in evaluations[-1]
    )
    pace = re.findall(r"[\d.,]+ images/s", log.read_text())
    shown = [f"step {evaluations[-1]['step']}", numbers] if evaluations else []
    return [f"| mini | {', '.join([*shown, *pace[-1:]])} |"] if shown or pace else []


@dataclasses.dataclass(frozen=True)
class Stage:
    """One thing that a bundle runs.

    Attributes:
      name, about: what `--stages` and `--help` call it.
      seconds: its limit.
      assets: what it reads.
      commands: its processes, one after the other.
      rows: lines of the table that it does not print itself.
    """

    name: str
    about: str
    seconds: int
    assets: tuple[str, ...]
    commands: Callable[[Place], list[list[str]]]
    rows: Callable[[Place], list[str]] = lambda place: []


_STAGES = (
    Stage("tests", "the tests that need neither assets nor a mesh", 120, (), _tests, _passed),
    Stage("train", "training and its first step, beside torch", 240, (LPIPS,), _train),
    Stage("tokenize", "tokenization, beside torch", 120, (), _tokenize),
    Stage("incontext", "prompts of the tasks, beside torch", 240, (VOCABULARY,), _incontext),
    Stage("phases", "prefill and decoding by themselves", 120, (VOCABULARY,), _phases),
    Stage(
        "mini", "the small tokenizer learns", 180, (VOCABULARY, LPIPS, PHOTOS, FEATURES), _mini,
        _learnt,
    ),
)  # fmt: skip
STAGES = {stage.name: stage for stage in _STAGES}
"""By name, the most valuable first."""


def chosen(names: str) -> list[Stage]:
    """The stages of a list such as "train,mini", in their own order.

    Raises:
      ValueError: names the unknown one.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in STAGES]:
        raise ValueError(f"there is no stage {unknown[0]}; there are {', '.join(STAGES)}")
    return [stage for name, stage in STAGES.items() if name in asked]


def environment(place: Place) -> dict[str, str]:
    """What a stage's processes get: caches in the bundle, and no network is asked."""
    cache = place.folder / "cache"
    settings = {
        "XDG_CACHE_HOME": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "v2l_jax" / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PIP_NO_INDEX": "1",
        "npm_config_offline": "true",
        "HF_HUB_OFFLINE": "1",
        "TEST_DEVICES": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # Tests choose the CPU and flags of their own JAX where nothing is said; "" leaves both to JAX.
    unset = {"JAX_PLATFORMS": "", "XLA_FLAGS": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return unset | dict(os.environ) | settings


def run(stages: Sequence[Stage], place: Place, budget: float) -> None:
    """Runs stages until the budget, in seconds, is used up; each line as soon as it is known."""
    place.results.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + budget
    with (place.results / "table.md").open("a", encoding="utf-8") as table:

        def show(line: str) -> None:
            for out in (sys.stdout, table):
                print(line, file=out, flush=True)

        for stage in stages:
            left = deadline - time.monotonic()
            show(f"\n{stage.name}: {stage.about}\n")
            if left < _LEAST_SECONDS:
                show(f"not begun: the budget of {budget:.0f} s is used up")
                continue
            began = time.monotonic()
            limit = stage.seconds * (_CPU_PATIENCE if place.tiny else 1)
            how = _run_stage(stage, place, min(limit, left), show)
            for row in stage.rows(place):
                show(row)
            show(f"\n{stage.name} {how} after {time.monotonic() - began:.0f} s")


def _run_stage(stage: Stage, place: Place, seconds: float, show: Callable[[str], None]) -> str:
    """Runs a stage's processes; says how it ended."""
    deadline, how = time.monotonic() + seconds, "ended well"
    with (place.results / f"{stage.name}.log").open("w", encoding="utf-8") as log:
        for command in stage.commands(place):
            print("$", *command, file=log, flush=True)
            code = _run_process(command, place, deadline, log, show)
            if code is None:
                return f"was stopped at its limit of {seconds:.0f} s"
            if code:
                how = f"failed (exit code {code}; results/{stage.name}.log)"
    return how


def _run_process(
    command: Sequence[str], place: Place, deadline: float, log, show: Callable[[str], None]
) -> int | None:
    """Runs one process; returns its exit code, or None where it had to be stopped."""
    process = subprocess.Popen(
        command, env=environment(place), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.startswith("|"):
                show(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        code = process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # also what it left behind
            try:
                os.killpg(process.pid, number)
                process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    reader.join(5)
    return code


def main() -> None:
    """Parses the command line and runs the stages."""
    listed = "\n".join(f"  {name:10} {stage.about}" for name, stage in STAGES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=pathlib.Path, required=True, help="the bundle's folder")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas between")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of them")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU runs in minutes")
    options = parser.parse_args()
    place = Place(options.bundle.resolve(), options.tiny)
    try:
        stages = chosen(options.stages)
        for stage in stages:
            for name in stage.assets:
                if not place.asset(name).exists():
                    raise ValueError(
                        f"{stage.name} needs {name}, which this bundle lacks: make it with "
                        f"--stages={stage.name}"
                    )
    except ValueError as error:
        sys.exit(f"error: {error}")
    run(stages, place, options.budget)


if __name__ == "__main__":
    main()
