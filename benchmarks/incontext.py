"""The in-context suite: ours, peer, ratio and bound, all measured in one run.

python -m benchmarks.incontext [--kind=few_shot,deblurring,inpainting,outpainting,scaling]
python -m benchmarks.incontext --shape=llama2-7b      (on a GPU)

`make test-parity` installs the peer; without it, or with --peer=False, ours stands alone.

The peer is the published way (`torch_loop`): batch 1, 16 new tokens a few-shot query, 2 a denoising
window. The bound is the time of all prompts' operations, nothing shared, at the machine's measured
matmul peak in ours' type. Deblurring stands for rotation and shift too, which ask the same number
of prompts of the same lengths. `--shape=llama2-7b` has random bfloat16 weights, the same on both
sides. "phases" are prefill and decoding by themselves. It has been run at tiny sizes only.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence

if __name__ == "__main__":  # the peer needs the GPU's memory too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import bounds, machine
from benchmarks.torch_loop import TorchLoop
from benchmarks.workloads import Denoising, FewShot, Workload, agreement
from v2l_jax.assets import fetch as assets
from v2l_jax.llm import llama_weights
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.llama_sharding import place_params
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.run.workdir import environment

_KINDS = ("few_shot", "deblurring", "inpainting", "outpainting", "scaling", "phases")
_SMOLLM2, _SMOLLM2_THETA = "smollm2-135m-instruct", 100_000.0

SHAPES = {
    "llama2-7b": LlamaConfig(
        32_000, 4096, 11_008, 32, 32, 32, 128, 4096, 1e-5, rotary_frequencies(128, 10_000.0)
    ),
    "smollm2-135m": LlamaConfig(
        49_152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, rotary_frequencies(64, _SMOLLM2_THETA)
    ),
    "tiny": LlamaConfig(512, 64, 96, 2, 4, 2, 16, 4096, 1e-5, rotary_frequencies(16, 10_000.0)),
}
"""Sizes that are run with random weights."""

_KIND = flags.DEFINE_list(
    "kind",
    None,
    f"What is measured: {', '.join(_KINDS)}; phases need random weights. Default: all that can be.",
)
_PEER = flags.DEFINE_bool("peer", None, "Measure the peer too; where it is installed by default.")
_VOCABULARY = flags.DEFINE_string(
    "vocabulary", _SMOLLM2, "Tokenizer of the prompts: an asset or a file."
)
_PHASE_TOKENS = flags.DEFINE_integer("phase_tokens", 512, "Tokens of a prompt of the phases.")
_SHAPE = flags.DEFINE_enum("shape", "smollm2", ("smollm2", *SHAPES), "The language model.")
_DTYPE = flags.DEFINE_list(
    "dtype", None, "Types ours runs in; float32,bfloat16 for smollm2, bfloat16 otherwise."
)
_EPISODES = flags.DEFINE_integer("episodes", 32, "Few-shot episodes.")
_IMAGES = flags.DEFINE_integer("images", 4, "Pictures that are denoised.")
_GRID = flags.DEFINE_integer(
    "grid", 8, "Words a side of those pictures; rates count 16×16. 8: a quarter of the windows."
)
_REPEATS = flags.DEFINE_integer("repeats", 2, "Timed repetitions; the best counts.")
_SCALING = flags.DEFINE_list(
    "scaling", ["1", "2", "4", "8", "16", "32", "64"], "Numbers of pictures in the scaling table."
)
_TOKEN_BUDGET = flags.DEFINE_integer(
    "token_budget", None, "Tokens of ours' batches; 4,096 on a CPU, 16,384 otherwise."
)


@dataclasses.dataclass(frozen=True)
class Engines:
    """The same language model, ours and the peer's.

    Attributes:
      config: its sizes.
      ours: decoders by type.
      peaks: matmul peak of each of those types, operations a second.
      peer: the loop in torch; None where ours stands alone.
      peer_name: what the tables call it.
    """

    config: LlamaConfig
    ours: Mapping[str, LLMEngine]
    peaks: Mapping[str, float]
    peer: TorchLoop | None = None
    peer_name: str = "no peer"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the task table.

    Attributes:
      task, engine, unit: what was measured.
      rate: episodes or images a second.
      ratio: over the peer's; None where there is none.
      bound: the rate at the machine's matmul peak; None for the peer.
      same: share of the peer's answers that it gives too; None for the peer.
    """

    task: str
    engine: str
    unit: str
    rate: float
    ratio: float | None
    bound: float | None = None
    same: float | None = None


def smollm2_engines(dtypes: Sequence[str], token_budget: int, with_peer: bool) -> Engines:
    """SmolLM2-135M with its own weights; the peer in float32."""
    path = assets.fetch(_SMOLLM2)
    ours = {}
    for dtype in dtypes:
        config, params = load_llama(path, jnp.dtype(dtype))
        ours[dtype] = LLMEngine(Llama(config, jnp.dtype(dtype)), params, token_budget=token_budget)
    peaks = {d: machine.matmul_peak(d) for d in dtypes}
    if not with_peer:
        return Engines(config, ours, peaks)
    peer = TorchLoop(config, "float32", _SMOLLM2_THETA)
    peer.load_gguf(str(path))
    return Engines(config, ours, peaks, peer, "torch loop, float32")


def random_engines(
    config: LlamaConfig, dtype: str, token_budget: int, with_peer: bool = True
) -> Engines:
    """A model of random weights, both sides in the same type and on the same device."""
    peaks = {dtype: machine.matmul_peak(dtype)}
    if not with_peer:
        params = _random_params(config, dtype)
        engine = LLMEngine(Llama(config, jnp.dtype(dtype)), params, token_budget=token_budget)
        return Engines(config, {dtype: engine}, peaks)
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    peer = TorchLoop(config, dtype, device=device)
    params = llama_weights.params_from_tensors(
        config, peer.tensors(), llama_weights.HUGGINGFACE_NAMES, jnp.dtype(dtype)
    )
    engine = LLMEngine(
        Llama(config, jnp.dtype(dtype)), place_params(params, None), token_budget=token_budget
    )
    return Engines(config, {dtype: engine}, peaks, peer, f"torch loop, {dtype}")


def _random_params(config: LlamaConfig, dtype: str) -> dict[str, jax.Array]:
    """Normal numbers of deviation 0.02, each array made on the device; norm scales and biases as
    the model starts them.
    """
    model, tokens = Llama(config, jnp.dtype(dtype), jnp.dtype(dtype)), jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    draw = jax.jit(
        lambda key, shape, kind: 0.02 * jax.random.normal(key, shape, kind), static_argnums=(1, 2)
    )
    is_scale = lambda path: "norm" in jax.tree_util.keystr(path)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    return jax.tree.unflatten(
        tree,
        [
            jnp.ones(leaf.shape, leaf.dtype)
            if is_scale(path)
            else draw(jax.random.key(i), leaf.shape, leaf.dtype)
            for i, (path, leaf) in enumerate(leaves)
        ],
    )


def measure_task(task: Workload, engines: Engines, repeats: int) -> list[Row]:
    """The peer's row, where there is one, and ours."""
    rows, peer_seconds, answers, peer = [], None, None, engines.peer
    if peer is not None:
        peer.generate(task.prompts[0], 2)  # not counted
        peer_seconds, answers = _timed(lambda: task.peer(peer), repeats)
        rows = [Row(task.name, engines.peer_name, task.unit, task.count / peer_seconds, 1.0)]
    work = bounds.flops(engines.config, list(map(len, task.prompts)), task.needed_tokens)
    for dtype, engine in engines.ours.items():
        task.ours(engine)  # compiles
        seconds, ours = _timed(lambda: task.ours(engine), repeats)
        peak = max(
            engines.peaks[dtype], machine.matmul_peak(dtype)
        )  # where others use the machine too, the strictest
        bound = task.count * peak / work
        same = None if answers is None else agreement(ours, answers)
        rows.append(
            Row(
                task.name,
                f"ours, {dtype}",
                task.unit,
                task.count / seconds,
                None if peer_seconds is None else peer_seconds / seconds,
                bound,
                same,
            )
        )
    return rows


def measure_scaling(
    task: Denoising, counts: Sequence[int], engines: Engines, repeats: int
) -> list[list[str]]:
    """Seconds a picture takes for one window, answered for more and more pictures together."""
    prompts, peer, of_peer = task.first_window, engines.peer, ""
    if peer is not None:
        seconds, _ = _timed(lambda: peer.generate(prompts[0], task.needed_tokens), repeats + 1)
        of_peer = f"{seconds * 1e3:.1f}"
    rows = []
    for count in counts:
        cells = [str(count), of_peer]
        for engine in engines.ours.values():
            ask = lambda: engine.generate(prompts[:count], task.needed_tokens)
            ask()
            cells.append(f"{_timed(ask, repeats)[0] / count * 1e3:.1f}")
        rows.append(cells)
    return rows


def measure_phases(
    engines: Engines, dtype: str, length: int, steps: int, repeats: int
) -> list[list[str]]:
    """Prefill against the matmul peak and decoding against the copy bandwidth, one full batch of
    random prompts.
    """
    engine, config = engines.ours[dtype], engines.config
    rows = max(1, engine.token_budget // length)
    prompts = np.random.default_rng(0).integers(config.vocab_size, size=(rows, length)).tolist()
    seconds = []
    for new_tokens in (1, 1 + steps):
        engine.generate(prompts, new_tokens)
        seconds.append(_timed(lambda: engine.generate(prompts, new_tokens), repeats)[0])
    rate = bounds.flops(config, [length] * rows, 1) / seconds[0]
    step = max(seconds[1] - seconds[0], 1e-9) / steps
    moved = bounds.decode_bytes(config, rows, length + steps / 2, jnp.dtype(dtype).itemsize) / step
    peak, bandwidth = engines.peaks[dtype], machine.copy_bandwidth()
    batch = f"{rows} × {length} tokens"
    return [
        [
            "prefill",
            batch,
            f"{rate / 1e12:.3f} TF/s",
            f"{peak / 1e12:.3f} TF/s",
            f"{rate / peak:.0%}",
        ],
        [
            "decoding",
            batch,
            f"{moved / 1e9:.1f} GB/s",
            f"{bandwidth / 1e9:.1f} GB/s",
            f"{moved / bandwidth:.0%}",
        ],
    ]


def task_cells(row: Row) -> list[str]:
    """A row as the table shows it."""
    bound = ["", ""] if row.bound is None else [f"{row.bound:.3g}", f"{row.rate / row.bound:.0%}"]
    return [
        row.task,
        row.engine,
        f"{row.rate:.3g} {row.unit}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        *bound,
        "" if row.same is None else f"{row.same:.1%}",
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)
    )


def _timed(call: Callable[[], list], repeats: int) -> tuple[float, list]:
    """Seconds of the fastest call, and what it returned."""
    best, answers = float("inf"), []
    for _ in range(repeats):
        start = time.perf_counter()
        answers = call()
        best = min(best, time.perf_counter() - start)
    return best, answers


def report(engines: Engines, kinds: Sequence[str]) -> None:
    """Measures and prints the tables, each line as soon as it is known."""
    vocabulary, repeats = engines.config.vocab_size, _REPEATS.value
    tokenizer = load_text_tokenizer(assets.fetch(_VOCABULARY.value))
    head = ["task", "engine", "a second", "over the peer", "bound", "of the bound", "same answers"]
    tasks: list[Workload] = []
    if "few_shot" in kinds:
        for ways, shots in ((2, 1), (5, 3)):
            tasks.append(FewShot.make(tokenizer, ways, shots, _EPISODES.value, vocabulary))
    corruptions = [kind for kind in kinds if kind in ("deblurring", "inpainting", "outpainting")]
    for kind in corruptions:
        tasks.append(Denoising.make(tokenizer, kind, _IMAGES.value, _GRID.value, vocabulary))
    if tasks:
        print(markdown(head, []), flush=True)
    for task in tasks:
        for row in measure_task(task, engines, repeats):
            print("| " + " | ".join(task_cells(row)) + " |", flush=True)
    for task in tasks:
        lengths = list(map(len, task.prompts))
        print(
            f"\n{task.name}: {len(lengths)} prompts of {np.mean(lengths):.0f} tokens, "
            f"{bounds.distinct_share(task.prompts):.0%} of them not shared"
        )
    if "scaling" in kinds:
        counts = [int(count) for count in _SCALING.value]
        task = Denoising.make(tokenizer, "inpainting", max(counts), _GRID.value, vocabulary)
        columns = ["pictures", engines.peer_name, *(f"ours, {dtype}" for dtype in engines.ours)]
        print(
            "\nMilliseconds a picture and window of inpainting\n\n"
            + markdown(columns, measure_scaling(task, counts, engines, repeats))
        )
    if "phases" in kinds:
        (dtype,) = engines.ours
        phases = measure_phases(engines, dtype, _PHASE_TOKENS.value, 32, repeats)
        print(
            "\n" + markdown(["phase", "batch", "ours", "measured ceiling", "fraction"], phases),
            flush=True,
        )


def main(argv: list[str]) -> None:
    """Prints the machine and the tables."""
    del argv
    own_weights = _SHAPE.value == "smollm2"
    possible = [kind for kind in _KINDS if not (own_weights and kind == "phases")]
    kinds = possible if _KIND.value is None else _KIND.value
    if unknown := sorted(set(kinds) - set(possible)):
        raise app.UsageError(f"--kind knows {', '.join(possible)}; not {', '.join(unknown)}")
    with_peer = _PEER.value
    if with_peer is None:
        with_peer = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    budget = _TOKEN_BUDGET.value or (4096 if jax.default_backend() == "cpu" else 16_384)
    known = environment()
    print(
        f"\n{known['cpu']}, {known['cpu_cores']} cores; jax {jax.__version__} on "
        f"{known['devices']}; {_SHAPE.value}"
    )
    if own_weights:
        engines = smollm2_engines(_DTYPE.value or ("float32", "bfloat16"), budget, with_peer)
    else:
        dtype = (_DTYPE.value or ["bfloat16"])[0]
        engines = random_engines(SHAPES[_SHAPE.value], dtype, budget, with_peer)
    peaks = ", ".join(f"{peak / 1e9:.0f} GF/s in {dtype}" for dtype, peak in engines.peaks.items())
    print(f"Measured matmul peak: {peaks}\n", flush=True)
    report(engines, kinds)


if __name__ == "__main__":
    app.run(main)
