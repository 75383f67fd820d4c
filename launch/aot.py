"""python -m launch.aot --config=configs/imagenet.py --topology=v5e:16x16 \\
    [--program=train] [--sweep] [--effort=0]

Compiles a config's train step, or LLaMA's prefill, decode or adapter step, for a TPU topology that
is not there, and prints what a chip would hold and do: memory by part and whether it fits, FLOPs,
bytes, collectives by kind and size, and the least step time with its bound. `--sweep` prints a line
for 8, 16, … chips up to the topology named, with the batch growing along (weak scaling) and kept
(strong). It compiles with little effort (`--effort=-1`), in a tenth of the time: for
configs/imagenet.py that gives 7 % more memory and a fifth less HBM traffic than a run's own
compilation, the same operations and collectives.

Needs the TPU compiler, not a TPU: `make tpu-compiler`, then PYTHONPATH=.venv-tpu; or pip install
'v2l_jax[tpu]'.
"""

import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Iterator

if __name__ == "__main__":  # before JAX is imported; an import changes nobody's environment
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # the compiler asks no metadata server which TPU it is on
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling takes no chip, so several may at a time
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
    } | os.environ
    os.environ["V2L_JAX_CPU_FORMS"] = "off"  # programs are for TPUs, whatever this machine is

import jax
from absl import app, flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from launch import programs
from launch.chips import Chip, chip_of
from launch.compiled_costs import Costs, costs_of
from v2l_jax import command_line, experiment
from v2l_jax.errors import ConfigError, V2LError
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.progress import progress_bar
from v2l_jax.training.trainer import total_steps

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "v5e:2x4",
    "Chip and shape, as libtpu names them: v5e:16x16, v4:2x2x4, v5p:2x2x4, v6e:4x4.",
)
_PROGRAM = flags.DEFINE_enum(
    "program", "train", ["train", *programs.LLM_PROGRAMS], "What to compile."
)
_LLM = flags.DEFINE_enum(
    "llm", "llama-2-7b", list(programs.LLAMAS), "Model of prefill, decode and adapters."
)
_BATCH = flags.DEFINE_integer(
    "batch",
    0,
    "Rows of prefill, decode and adapters; 0 = one a chip of the batch axes. Training takes "
    "config.train.batch_size.",
)
_LENGTH = flags.DEFINE_integer(
    "length",
    1024,
    "Tokens of a prompt (prefill), of a full cache (decode), or of a training text (adapters).",
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1_281_167, "Training images of an epoch; ImageNet's by default."
)
_SWEEP = flags.DEFINE_bool(
    "sweep", False, "A table from 8 chips to the topology's, by doubling; training only."
)
_EFFORT = flags.DEFINE_float(
    "effort",
    None,
    "How hard the compiler tries, -1 to 1. 0 is what a run uses; -1 takes a tenth of the time. "
    "Default: 0, for a sweep -1.",
    -1,
    1,
)


class DoesNotFitError(V2LError):
    """The compiler refused a program for want of memory; the message says what a chip would
    hold.
    """


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a program would do on a topology.

    Attributes:
      topology, chips, chip: where.
      batch: images of a step, or prompts.
      held: bytes of arguments a chip holds, by part.
      costs: of one call, a chip.
    """

    topology: str
    chips: int
    chip: Chip
    batch: int
    held: dict[str, int]
    costs: Costs

    @property
    def fits(self) -> bool:
        """Whether one chip's memory is enough."""
        return self.costs.peak_memory <= self.chip.memory

    @property
    def bound(self) -> str:
        """What takes longest: "compute", "memory" or "network"."""
        seconds = self.costs.seconds(self.chip)
        return max(seconds, key=lambda resource: seconds[resource])

    @property
    def step_seconds(self) -> float:
        """The least time of a step: the longest bound, everything else hidden behind it."""
        return max(self.costs.seconds(self.chip).values())


def estimate(config: ConfigDict, topology: str, batch: int | None = None) -> Estimate:
    """Compiles `--program` for a topology; `batch` replaces `config.train.batch_size`.

    Raises:
      ConfigError: libtpu is not installed or does not know the topology, or the mesh does not fit
        it.
      DoesNotFitError: the chips have too little memory.
    """
    devices = describe(topology)
    mesh = make_mesh(dict(config.mesh), devices)
    if _PROGRAM.value == "train":
        config = config.copy_and_resolve_references()
        config.train.batch_size = batch = batch or config.train.batch_size
        program = programs.train_step(config, mesh, programs.Words(), _NUM_IMAGES.value)
    else:
        batch = _BATCH.value or max(1, len(devices) // mesh.shape["tensor"])
        program = programs.LLM_PROGRAMS[_PROGRAM.value](_LLM.value, mesh, batch, _LENGTH.value)
    try:
        compiled = program.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(
            f"{_PROGRAM.value} on {topology}, batch {batch:,}, does not fit: a chip holds "
            f"{_parts(program.held)}, and the compiler says: "
            f"{str(error).strip().splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')} Spread "
            "the state (--config.mesh.fsdp, .tensor), or take "
            "--config.train.micro_batches, --config.train.remat, or more chips"
        ) from error
    costs = costs_of(compiled, program.traced.jaxpr.jaxpr, len(devices))
    return Estimate(
        topology, len(devices), chip_of(devices[0].device_kind), batch, program.held, costs
    )


def describe(topology: str) -> list[jax.Device]:
    """The chips of a topology.

    Raises:
      ConfigError: libtpu is not installed, or does not know the topology.
    """
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the TPU compiler is not installed: make tpu-compiler, then PYTHONPATH=.venv-tpu"
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--topology={topology} is not to be had ({reason}); examples: v5e:4x4, v4:2x2x4, "
            "v5p:2x2x4"
        ) from error


def describe_estimate(found: Estimate, images: int, epochs: float) -> Iterator[str]:
    """The lines of a full description."""
    costs, chip = found.costs, found.chip
    yield (
        f"{_PROGRAM.value} on {found.topology}: {found.chips} × {chip.name}, batch {found.batch:,}"
    )
    yield f"  memory a chip: {_parts(found.held)}"
    yield (
        f"    in between (activations, gradients) {_bytes(costs.temporaries)}, results "
        f"{_bytes(costs.outputs)}"
    )
    verdict = "fits" if found.fits else "DOES NOT FIT"
    yield f"    at worst {_bytes(costs.peak_memory)} of {_bytes(chip.memory)}: {verdict}"
    yield f"  work a chip: {costs.flops / 1e12:.3g} TFLOP, {_bytes(costs.hbm_bytes)} of HBM traffic"
    for collective in costs.collectives[:8]:
        total = collective.count * collective.wire_bytes
        yield (
            f"    {collective.count} × {collective.kind} of {_bytes(collective.bytes)} among "
            f"{collective.group}: {_bytes(total)} sent"
        )
    if len(costs.collectives) > 8:
        yield f"    and {len(costs.collectives) - 8} smaller kinds"
    seconds = costs.seconds(chip)
    yield (
        "  least time of a step: "
        + ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in seconds.items())
        + f"; bound by {found.bound}"
    )
    if _PROGRAM.value == "train":
        rate = found.batch / found.step_seconds
        yield (
            f"  at most {rate:,.0f} images/s; {epochs:g} epochs of {images:,} images take at "
            f"least {epochs * images / rate / 86_400:.2f} days"
        )


def sweep_topologies(topology: str) -> list[str]:
    """Topologies of the same chip from 8 chips by doubling to the one named: v5e:4x4 gives v5e:2x4,
    v5e:4x4.
    """
    kind, _, shape = topology.partition(":")
    sides = [int(side) for side in re.findall(r"\d+", shape)]
    found = [topology]
    while math.prod(sides) > 8:
        largest = max(range(len(sides)), key=lambda i: (sides[i], -i))
        sides[largest] //= 2
        found.append(f"{kind}:{'x'.join(map(str, sides))}")
    return found[::-1]


def sweep(config: ConfigDict, topology: str) -> Iterator[str]:
    """A table of weak and strong scaling up to a topology; the batch of the config is that of the
    whole topology.
    """
    names = sweep_topologies(topology)
    whole, chips = config.train.batch_size, len(describe(topology))
    points = [(mode, name) for mode in ("weak", "strong") for name in names]
    yield (
        "| scaling | topology | chips | batch | memory a chip | fits | compute ms | memory ms | "
        "network ms | bound | images/s at most | over the first, a chip |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    first: dict[str, float] = {}
    compiled = functools.cache(
        lambda name, batch: estimate(config, name, batch)
    )  # both kinds of scaling end at the same point
    for mode, name in progress_bar(points, "compiling", "topology"):
        batch = whole * len(describe(name)) // chips if mode == "weak" else whole
        try:
            found = compiled(name, batch)
        except DoesNotFitError:
            yield f"| {mode} | {name} | {len(describe(name))} | {batch:,} | | no | | | | | | |"
            continue
        rate = batch / found.step_seconds / found.chips
        times = " | ".join(
            f"{1e3 * value:.3g}" for value in found.costs.seconds(found.chip).values()
        )
        yield (
            f"| {mode} | {name} | {found.chips} | {batch:,} | {_bytes(found.costs.peak_memory)} | "
            f"{'yes' if found.fits else 'no'} | {times} | "
            f"{found.bound} | {rate * found.chips:,.0f} | "
            f"{rate / first.setdefault(mode, rate):.2f} |"
        )


def _parts(held: dict[str, int]) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in held.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def main(argv: list[str]) -> None:
    """Prints the description or the table; an error meant for the user is one line."""
    if len(argv) > 1 or flags.FLAGS.config is None:
        raise app.UsageError("try --config=configs/imagenet.py --topology=v5e:16x16")
    usual_effort = -1.0 if _SWEEP.value else 0.0
    jax.config.update(
        "jax_exec_time_optimization_effort",
        usual_effort if _EFFORT.value is None else _EFFORT.value,
    )
    try:
        config = command_line.load_config()
        experiment.check(config)
        if _SWEEP.value:
            lines = sweep(config, _TOPOLOGY.value)
        else:
            epochs = (
                config.train.epochs
                or total_steps(config.train, _NUM_IMAGES.value)
                * config.train.batch_size
                / _NUM_IMAGES.value
            )
            lines = describe_estimate(estimate(config, _TOPOLOGY.value), _NUM_IMAGES.value, epochs)
        for line in lines:
            print(line, flush=True)
    except V2LError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    command_line.define_config()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        names = (
            "config",
            "topology",
            "program",
            "llm",
            "batch",
            "length",
            "num_images",
            "sweep",
            "effort",
        )
        print("\n".join(f"  --{name}: {flags.FLAGS[name].help}" for name in names))
        sys.exit(0)
    app.run(main, flags_parser=command_line.parse_flags)
