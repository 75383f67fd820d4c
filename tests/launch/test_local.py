"""Many hosts as several processes of this machine: the losses of one process, a stop that all
follow, a death that all follow.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import synthetic_config, tiny_models
from tests.compiler_flags import FAST_TO_COMPILE
from v2l_jax.metrics.results import read_results
from v2l_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
LOSSES = ("loss", "reconstruction_loss", "quantizer_loss", "generator_loss", "discriminator_loss")

pytestmark = pytest.mark.processes


def start(*arguments, **options):
    environment = os.environ | {"XLA_FLAGS": FAST_TO_COMPILE}
    pipe = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, **pipe, **options
    )


def launch(processes, workdir, flags):
    logs = f"--logs={workdir / 'logs'}"
    return start("launch.local", f"--processes={processes}", "--cpu_devices=2", logs, "--", *flags)


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def wait_for_rows(workdir, count, process):
    deadline = time.monotonic() + 240
    while len(rows(workdir)) < count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][
            -3000:
        ]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    code, errors = finish(start("v2l_jax.main", *synthetic_config.fill(workdir)))
    assert code == 0, errors[-3000:]
    return workdir


def test_two_processes_then_four_give_the_losses_of_one(tmp_path, one_process):
    """Two processes are told to stop, save and exit with 143; four go on: same order of photos,
    same losses, same evaluation.
    """
    flags = synthetic_config.fill(tmp_path / "run")
    two = launch(2, tmp_path / "run", flags)
    wait_for_rows(tmp_path / "run", 5, two)
    two.send_signal(signal.SIGTERM)
    code, errors = finish(two)
    assert code == 143, errors[-3000:]
    stopped = int(re.search(r"saved at step (\d+) of", errors)[1])
    assert 5 <= stopped < synthetic_config.get_config().train.steps
    code, errors = finish(launch(4, tmp_path / "run", flags))
    assert code == 0, errors[-3000:]
    assert f"goes on from step {stopped} of" in errors
    found = rows(tmp_path / "run")
    assert [(row["step"], row["split"]) for row in found] == [
        (row["step"], row["split"]) for row in rows(one_process)
    ]
    for row, expected in zip(found, rows(one_process)):
        names = (
            LOSSES
            if row["split"] == "train"
            else ("psnr", "ssim", "codebook_usage", "perplexity", "dead_words")
        )
        for name in names:
            np.testing.assert_allclose(
                row[name],
                expected[name],
                rtol=1e-5,
                atol=1e-6,
                err_msg=f"{name}, step {row['step']}",
            )
    assert (tmp_path / "run" / "training.json").exists()


def test_two_processes_share_tokens_and_write_those_of_one(tmp_path, one_process):
    """Of two shards each process makes one; a shard that is there already is not made again."""
    found = []
    for processes in (1, 2):
        workdir = tmp_path / str(processes)
        shutil.copytree(one_process, workdir)
        flags = ["--config=tests/synthetic_config.py", f"--workdir={workdir}"]
        flags += [f"--config.llm={workdir / 'llm'}", "--config.jobs=tokenize"]
        flags += ["--config.evaluate.batch_size=1"]  # a shard is 32 of the 48 images
        code, errors = finish(launch(processes, workdir, flags))
        assert code == 0, errors[-3000:]
        log = workdir / "logs" / "process_1.log"
        other = log.read_text() if processes == 2 else errors
        assert "tokenizing train from 0 on" in errors and "tokenizing train from 32 on" in other
        with np.load(workdir / "tokens" / "train.npz") as arrays:
            found.append(dict(arrays))
        assert not list(workdir.glob("tokens/*.shards"))
    assert found[0].keys() == found[1].keys() >= {"local_ids", "global_ids", "labels"}
    for name, expected in found[0].items():
        np.testing.assert_array_equal(found[1][name], expected)
        assert len(expected) == synthetic_config.IMAGES


def test_two_processes_evaluate_as_one(tmp_path):
    """Both answer prompts of both tasks, and the rows are those of one process."""
    backend = tiny_models.byte_level(300)
    tiny_models.write_llm(tmp_path / "llm", "llama", backend, context=2048)
    said, random = {}, np.random.default_rng(0)
    for name in ("cat", "dog", "pizza"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            path = tmp_path / "photos" / name / f"{number}.png"
            Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8)).save(path)
            said[f"{name}/{number}.png"] = f"a {name} on a sofa {number}"
    (tmp_path / "said.json").write_text(json.dumps(said))
    found = []
    for processes in (1, 2):
        workdir = tmp_path / str(processes)
        flags = ["--config=tests/tiny_config.py", f"--workdir={workdir}"]
        flags += [f"--config.llm={tmp_path / 'llm'}", "--config.jobs=evaluate"]
        flags += [f"--config.data.labelled={tmp_path / 'photos'}", "--config.data.held_out=0.5"]
        flags += ["--config.representation.kind=caption"]
        flags += [f"--config.representation.caption.file={tmp_path / 'said.json'}"]
        flags += ["--config.evaluate.tasks=few_shot,zero_shot"]
        code, errors = finish(launch(processes, workdir, flags))
        assert code == 0, errors[-3000:]
        if processes == 2:
            assert "zero-shot, none" in (workdir / "logs" / "process_1.log").read_text()
        found.append([(r.metric, r.measured_on["task"], r.value) for r in results(workdir)])
    assert found[0] == found[1] and {task for _, task, _ in found[0]} == {"few_shot", "zero_shot"}


def results(workdir):
    return sorted(read_results(workdir / "results.json"), key=lambda r: str(r.to_json()))


def test_a_process_that_dies_takes_the_job_down_and_is_named(tmp_path):
    flags = [*synthetic_config.fill(tmp_path / "run"), "--config.train.steps=100000"]
    job = launch(2, tmp_path / "run", flags)
    pid = next(
        int(line.split("pid ")[1].split(",")[0])
        for line in job.stderr
        if line.startswith("process 1:")
    )
    wait_for_rows(tmp_path / "run", 2, job)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    code, errors = finish(job)
    assert time.monotonic() - began < 60
    assert code == 128 + signal.SIGKILL
    assert f"process 1 (pid {pid}) was killed by SIGKILL" in errors
