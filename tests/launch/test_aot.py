"""Programs compile for TPUs that are not there; the compiler is large, so `make test-tpu` brings it
and the rest skips by name.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from jax.experimental.topologies import get_topology_desc

from launch.aot import sweep_topologies
from v2l_jax.errors import ConfigError
from v2l_jax.parallel.mesh import make_mesh

ROOT = pathlib.Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: make test-tpu runs this test",
)


def run(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.aot", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )


def test_sweeps_double_up_to_the_topology():
    assert sweep_topologies("v5e:16x16") == [
        "v5e:2x4",
        "v5e:4x4",
        "v5e:4x8",
        "v5e:8x8",
        "v5e:8x16",
        "v5e:16x16",
    ]
    assert sweep_topologies("v4:2x2x4") == ["v4:2x2x2", "v4:2x2x4"]
    assert sweep_topologies("v5e:2x2") == ["v5e:2x2"]


def test_help_and_a_missing_config():
    assert "--topology" in run("--help").stdout
    assert run().returncode != 0


@needs_compiler
def test_a_train_step_compiles_for_four_chips():
    result = run(
        "--config=tests/tiny_config.py", "--topology=v5e:2x2", "--config.sharding=()", "--effort=-1"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (
        "train on v5e:2x2: 4 × v5e, batch 8" in result.stdout
        and "of 16.00 GB: fits" in result.stdout
    )
    reduced = [
        float(size) for size in re.findall(r"× all-reduce of ([\d.]+) MB among 4", result.stdout)
    ]
    assert reduced, result.stdout  # gradients are summed over the chips
    assert re.search(r"bound by (compute|memory|network)", result.stdout)


@needs_compiler
def test_a_sweep_keeps_the_batch_or_the_images_a_chip():
    result = run(
        "--config=tests/tiny_config.py",
        "--topology=v5e:4x4",
        "--config.train.batch_size=32",
        "--config.sharding=()",
        "--sweep",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[2:]
    ]
    assert [row[:4] for row in rows] == [
        ["weak", "v5e:2x4", "8", "16"],
        ["weak", "v5e:4x4", "16", "32"],
        ["strong", "v5e:2x4", "8", "32"],
        ["strong", "v5e:4x4", "16", "32"],
    ]
    assert rows[1][4:11] == rows[3][4:11]  # the same program
    assert all(row[5] == "yes" and float(row[6]) > 0 for row in rows)
    assert (
        1.2 < float(rows[2][6]) / float(rows[0][6]) < 2.1
    )  # twice the images a chip; projecting the codebook costs the same


@needs_compiler
def test_only_whole_copies_cross_the_network_between_slices():
    devices = get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2).devices
    assert len(devices) == 16 and {d.slice_index for d in devices} == {0, 1}
    for sizes, across in (({"replica": 2, "fsdp": 8}, 0), ({"data": -1, "tensor": 2}, 1)):
        mesh = make_mesh(sizes, devices)
        slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
        inside = np.moveaxis(slices, across, 0).reshape(2, 8)
        assert (inside == inside[:, :1]).all() and set(inside[:, 0]) == {
            0,
            1,
        }  # each half of the axis is one slice
    with pytest.raises(
        ConfigError, match=r"2 TPU slices: make replica \(or data\) a multiple of 2"
    ):
        make_mesh({"fsdp": 16}, devices)


@needs_compiler
def test_llama_70b_compiles_tensor_parallel():
    flags = (
        "--program=decode",
        "--llm=llama-2-70b",
        "--topology=v5p:2x2x4",
        "--config.mesh.tensor=8",
        "--length=256",
    )
    result = run("--config=configs/imagenet.py", *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    held = re.search(r"memory a chip: parameters ([\d.]+) GB, cache ([\d.]+) MB", result.stdout)
    assert float(held[1]) == pytest.approx(
        2 * 68.98 / 8, rel=0.01
    )  # 69 billion parameters, bfloat16, over 8 chips
    assert float(held[2]) == pytest.approx(
        2 * 80 * 256 * 8 * 128 * 2 / 8 / 1e6, rel=0.01
    )  # keys and values of a row
    assert "bound by memory" in result.stdout and ": fits" in result.stdout


@needs_compiler
def test_training_adapters_holds_no_gradient_of_a_whole_stack():
    flags = (
        "--program=adapters",
        "--topology=v5e:2x4",
        "--config.mesh.tensor=8",
        "--batch=1",
        "--length=256",
        "--effort=-1",
    )
    result = run("--config=configs/imagenet.py", *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "parameters 1.69 GB, adapters 8.39 MB, optimizer 16.8 MB" in result.stdout
    between = re.search(r"in between .*? ([\d.]+) MB", result.stdout)
    stack = 32 * 4096 * 3 * 4096 * 4 / 8  # float32 gradient of all layers' qkv on one of 8 chips
    assert between and float(between[1]) * 1e6 < stack


@needs_compiler
def test_what_does_not_fit_is_one_line():
    flags = (
        "--program=prefill",
        "--llm=llama-2-70b",
        "--topology=v5e:2x4",
        "--config.mesh.tensor=8",
        "--length=4096",
        "--batch=8",
    )
    result = run("--config=configs/imagenet.py", *flags)
    assert result.returncode == 1 and len(result.stderr.strip().splitlines()) == 1, result.stderr[
        -2000:
    ]
    assert (
        "does not fit: a chip holds parameters 17.2" in result.stderr
        and "Ran out of memory on HBM" in result.stderr
    )


@needs_compiler
def test_an_impossible_mesh_or_topology_is_one_line():
    assert (
        run("--config=tests/tiny_config.py", "--topology=v5e:2x2", "--config.mesh.tensor=3")
        .stderr.strip()
        .startswith("error: mesh axes")
    )
    assert (
        "--topology=v99:2x2 is not to be had"
        in run("--config=tests/tiny_config.py", "--topology=v99:2x2").stderr
    )
