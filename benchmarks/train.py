"""The tokenizer's training step and tokenization: ours, peer, ratio and bound, all measured in one
run.

python -m launch.environment python -m benchmarks.train [--config.train.batch_size=…]
    (make test-parity installs the peer)
python -m benchmarks.train --config=configs/imagenet.py --word_dim=768 --local_words=32000 \\
    --photos=False --dtypes=bfloat16      (on a GPU)

The peer is the same architecture in plain torch (`torch_tokenizer`), with the same weights, batch
and losses; "first loss" shows it. Eager and compiled, each in the types asked for; bfloat16 is
autocast. Engines take turns and the fastest turn counts. The published step is measured: no
projector fits. Where torch is not installed, ours stands alone. The bound is the time of the step's
operations at the machine's measured matmul peak in the same type, XLA's or torch's, whichever is
higher. The task "first_step" is how long a training takes to its first step's end: see
`benchmarks.first_step`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the peer needs the GPU's memory too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import first_step, machine
from launch.compiled_costs import flops_of
from v2l_jax import command_line
from v2l_jax.data.loader import make_loader
from v2l_jax.ops import cpu_settings
from v2l_jax.run import building, loading
from v2l_jax.run.workdir import environment
from v2l_jax.training.losses import LossWeights

if TYPE_CHECKING:
    from benchmarks import torch_tokenizer

HEAD = (
    "task",
    "engine",
    "images/s",
    "over eager",
    "over compiled",
    "bound",
    "of the bound",
    "first loss",
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What both sides are built from.

    Attributes:
      config: the experiment, in the published way of stepping.
      words: vectors of the codebooks "local" and "global", random.
      lpips: LPIPS parameters, or None.
      device: torch's name of the device.
    """

    config: ConfigDict
    words: Mapping[str, np.ndarray]
    lpips: Any
    device: str

    @classmethod
    def of(cls, config: ConfigDict, word_dim: int, local_words: int, global_words: int) -> "Sizes":
        """Sizes of a config over random codebooks."""
        config = ConfigDict(config.to_dict())
        remedies = (
            "encoder_start",
            "projector_fit_every",
            "projector_recenter_every",
            "projector_revive_every",
            "disc_warmup",
        )
        extras = (
            "weight_entropy",
            "ema_decay",
            "skip_spikes_above",
            "warmup_steps",
            "warmup_epochs",
            "epochs",
        )
        off = {key: 0 * config.train[key] for key in remedies + extras if key in config.train}
        constant = {
            "optimizer": "adam",
            "learning_rate_scaling": "none",
            "encoder_scale": 1.0,
            "steps": 10**9,
            "micro_batches": 1,
        }
        config.train.update(off | constant)
        random = np.random.default_rng(0)
        counts = {"local": local_words, "global": global_words}
        words = {
            name: (random.normal(size=(n, word_dim)) * word_dim**-0.5).astype(np.float32)
            for name, n in counts.items()
        }
        lpips = building.lpips_params(config)
        return cls(config, words, lpips, "cpu" if jax.default_backend() == "cpu" else "cuda")

    def batch(self, size: int) -> dict[str, np.ndarray]:
        """Images and embeddings."""
        random, side = np.random.default_rng(1), self.config.model.image_size
        image = random.uniform(-1, 1, size=(size, side, side, 3)).astype(np.float32)
        return {
            "image": image,
            "image_embedding": random.normal(size=(size, self.words["local"].shape[1])).astype(
                np.float32
            ),
        }


@dataclasses.dataclass(frozen=True)
class Engine:
    """One way to do a task.

    Attributes:
      name: what the table calls it.
      images: in a call.
      call: does it once, perhaps without waiting, and returns the loss or None.
      wait: until calls are done.
    """

    name: str
    images: int
    call: Callable[[], Any]
    wait: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; rates are images a second, `loss` that of the first step."""

    task: str
    engine: str
    rate: float
    loss: float | None = None
    eager: float | None = None
    compiled: float | None = None
    bound: float | None = None

    def cells(self) -> list[str]:
        """The line."""
        over = [
            "" if other is None else f"{self.rate / other:.2f}"
            for other in (self.eager, self.compiled)
        ]
        bound = (
            ["", ""]
            if self.bound is None
            else [f"{self.bound:.3g}", f"{self.rate / self.bound:.0%}"]
        )
        return [
            self.task,
            self.engine,
            f"{self.rate:.3g}",
            *over,
            *bound,
            "" if self.loss is None else f"{self.loss:.5f}",
        ]


class Ours:
    """The step and the tokenization of this project, from the peer's weights."""

    def __init__(
        self, sizes: Sizes, dtype: str, gan: bool, arrays: Mapping[str, np.ndarray] | None
    ):
        """From the peer's arrays, or a random start where there is no peer."""
        config = ConfigDict(sizes.config.to_dict())
        config.model.dtype, config.train.disc_start = dtype, _disc_start(gan)
        self._tokenizer = building.tokenizer(config, sizes.words)
        trainer = building.trainer(config, self._tokenizer, 1)
        state = trainer.initial_state().replace(step=np.int32(1))
        if arrays is not None:
            from benchmarks import torch_tokenizer

            params, disc = torch_tokenizer.flax_params(arrays)
            assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, state.params)
            state = state.replace(
                params=params, disc_params=disc["params"], disc_batch_stats=disc["batch_stats"]
            )
        self.state = jax.device_put(state)
        frozen = building.frozen_inputs(self._tokenizer, sizes.words, sizes.lpips)
        self.frozen = jax.device_put(frozen)
        self._step, self._encode = trainer.step_function(), jax.jit(self._tokenizer.encode)

    def train(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """One step; its metrics."""
        self.state, metrics = self._step(self.state, dict(batch), self.frozen)
        return metrics

    def tokenize(self, batch: Mapping[str, jax.Array]) -> Any:
        """Words of a batch."""
        variables = {"params": self.state.params, "frozen": self.frozen["model"]}
        return self._encode(variables, dict(batch))

    def train_flops(self, batch: Mapping[str, jax.Array], gan: bool) -> float:
        """Multiply-adds × 2 of a step."""
        jaxpr = jax.make_jaxpr(self._step)(self.state, dict(batch), self.frozen).jaxpr
        return flops_of(jaxpr, branch=max if gan else min)

    def tokenize_flops(self, batch: Mapping[str, jax.Array]) -> float:
        """Multiply-adds × 2 of tokenizing a batch."""
        variables = {"params": self.state.params, "frozen": self.frozen["model"]}
        return flops_of(jax.make_jaxpr(self._encode)(variables, dict(batch)).jaxpr)


def _disc_start(gan: bool) -> int:
    return 0 if gan else 10**9


def peer_is_here() -> bool:
    """Whether torch is installed and has a device of the same kind as JAX."""
    return importlib.util.find_spec("torch") is not None and jax.default_backend() in ("cpu", "gpu")


def peer(sizes: Sizes, dtype: str, gan: bool, compiled: bool = False) -> "torch_tokenizer.Trainer":
    """The peer, one step done, so that the game is on where it is asked for."""
    from benchmarks import torch_tokenizer

    config, train = sizes.config, sizes.config.train
    return torch_tokenizer.Trainer(
        building.tokenizer(config, sizes.words),
        {f"{name}_words": vectors for name, vectors in sizes.words.items()},
        sizes.lpips,
        LossWeights(train.weight_perceptual, train.weight_adversarial, _disc_start(gan)),
        learning_rate=train.learning_rate,
        perceptual_images=train.perceptual_images or None,
        dtype=dtype,
        compiled=compiled,
        step=1,
        device=sizes.device,
    )


def engines_of(
    sizes: Sizes, task: str, dtype: str, compiled: bool
) -> tuple[dict[str, Engine], float]:
    """Engines of a task by "eager", "compiled" (both where torch is installed) and "ours"; and the
    operations that an image takes.
    """
    gan, training = task == "train_gan", task != "tokenize"
    size = sizes.config.train.batch_size if training else sizes.config.evaluate.batch_size
    batch = sizes.batch(size)
    engines = {}
    names = ("eager", "compiled")[: 1 + compiled] if peer_is_here() else ()
    for name in names:
        trainer = peer(sizes, dtype, gan, name == "compiled")
        call = trainer.train if training else trainer.tokenize
        placed = trainer.put(batch)
        engines[name] = Engine(
            f"torch {name}, {dtype}",
            size,
            lambda call=call, placed=placed: call(placed),
            trainer.wait,
        )
    ours = Ours(sizes, dtype, gan, peer(sizes, dtype, gan).arrays() if names else None)
    placed = jax.device_put(batch)
    last: list[Any] = [None]

    def call_ours() -> Any:
        last[0] = (ours.train if training else ours.tokenize)(placed)
        return last[0]

    engines["ours"] = Engine(
        f"ours, {dtype}", size, call_ours, lambda: jax.block_until_ready(last[0])
    )
    flops = ours.train_flops(placed, gan) if training else ours.tokenize_flops(placed)
    return engines, flops / size


def measure(
    sizes: Sizes, task: str, dtype: str, compiled: bool, steps: int, turns: int
) -> list[Row]:
    """A row for each engine; one that does not start is left out, and says why."""
    engines, flops = engines_of(sizes, task, dtype, compiled)
    losses, best = {}, dict.fromkeys(engines, float("inf"))
    for name in list(engines):
        try:
            first = engines[name].call()  # compiles
        except Exception as error:
            if name != "compiled":
                raise
            print(f"{engines[name].name} does not work here: {str(error).strip().splitlines()[0]}")
            del engines[name]
            continue
        losses[name] = float(first["loss"]) if task != "tokenize" else None
    peak = machine.matmul_peak(dtype)
    for _ in range(turns):
        for name, engine in engines.items():
            engine.call()
            engine.wait()
            start = time.perf_counter()
            for _ in range(steps):
                engine.call()
            engine.wait()
            best[name] = min(best[name], (time.perf_counter() - start) / steps)
        peak = max(
            peak, machine.matmul_peak(dtype)
        )  # where others use the machine too, the strictest
    rates = {name: engine.images / best[name] for name, engine in engines.items()}
    others = {name: rates.get(name) for name in ("eager", "compiled")} | {"bound": peak / flops}
    return [
        Row(task, engine.name, rates[name], losses[name], **others)
        for name, engine in engines.items()
    ]


def pipeline_rate(config: ConfigDict, batches: int) -> float:
    """Photos that the input pipeline alone gives a second."""
    workers, transform = config.train.loader_workers, building.image_transform(config, augment=True)
    loader = make_loader(
        loading.photos(config).train, transform, config.train.batch_size, seed=0, workers=workers
    )
    for _ in range(10):  # what lies in its buffers
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return batches * config.train.batch_size / (time.perf_counter() - start)


def _torch_version() -> str:
    return importlib.metadata.version("torch") if peer_is_here() else "is not installed"


def _first_steps() -> Iterator[list[str]]:
    """Rows of `first_step`, with the same config and sizes."""
    own = ("config", "word_dim", "local_words", "global_words")
    given = [f"--{name}={flags.FLAGS[name].value}" for name in own]
    return first_step.rows([*given, *command_line.overrides()])


def print_line(cells: Sequence[str]) -> None:
    """A line of the table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def define_flags() -> None:
    """The command line's; not at import, where a test that imports another program too would define
    --config twice.
    """
    command_line.define_config(str(pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"))
    flags.DEFINE_integer(
        "word_dim", 384, "Length of word vectors: MiniLM's; CLIP ViT-L/14's is 768."
    )
    flags.DEFINE_integer("local_words", 8192, "Words in the local codebook.")
    flags.DEFINE_integer("global_words", 11_908, "Words in the global codebook.")
    flags.DEFINE_list(
        "dtypes", ["float32", "bfloat16"], "Types of convolutions and matrix products."
    )
    flags.DEFINE_list(
        "tasks", ["train", "train_gan", "tokenize", "first_step"], "What is measured."
    )
    flags.DEFINE_bool("compile", True, "Measure torch.compile too.")
    flags.DEFINE_bool("photos", True, "Measure the input pipeline too, on the config's photos.")
    flags.DEFINE_integer("steps", 8, "Steps or batches of a turn.")
    flags.DEFINE_integer("turns", 5, "Turns of each engine.")


def main(argv: Sequence[str]) -> None:
    """Prints the machine and the table."""
    del argv
    cpu_settings.apply()
    given = flags.FLAGS
    known, config = environment(), command_line.load_config()
    print(
        f"\n{known['cpu']}, {known['cpu_cores']} cores; jax {jax.__version__} on "
        f"{known['devices']}; torch {_torch_version()}"
    )
    sizes = Sizes.of(config, given.word_dim, given.local_words, given.global_words)
    side, batch = config.model.image_size, config.train.batch_size
    print(
        f"{side}×{side} pixels, {config.model.channels} channels, batch {batch} in training and "
        f"{config.evaluate.batch_size} in tokenization\n"
    )
    rated = [task for task in given.tasks if task != "first_step"]
    if rated or given.photos:
        print_line(HEAD)
        print_line(["---"] * len(HEAD))
    for task in rated:
        for dtype in given.dtypes:
            for row in measure(sizes, task, dtype, given.compile, given.steps, given.turns):
                print_line(row.cells())
    if given.photos:
        name = f"{config.train.loader_workers} workers"
        print_line(Row("input pipeline alone", name, pipeline_rate(config, 40)).cells())
    if "first_step" in given.tasks:
        print()
        for cells in (first_step.HEAD, ["---"] * len(first_step.HEAD), *_first_steps()):
            print_line(cells)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=command_line.parse_flags)
