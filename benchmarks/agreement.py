"""How many words a faster type chooses as float32 does: v2l-mini on the quickstart's held-out
photos.

python -m launch.environment python -m benchmarks.agreement [--images=232] [--tower=False]

bfloat16 is computed as it is. TF32 is emulated, on any backend: the factors of each product that
asks for it are rounded to 10 bits of mantissa, as a GPU's tensor cores do; sums are float32. Local
words depend on the tokenizer's type; global words, nearest to the tower's vector of the image, on
the tower's. The interval is that of the mean over images.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from ml_collections import ConfigDict

from v2l_jax import experiment
from v2l_jax.data.sources import Subset, WithVectors
from v2l_jax.metrics.results import Result, mean
from v2l_jax.ops import cpu_settings
from v2l_jax.ops.precision import type_named
from v2l_jax.run import loading
from v2l_jax.run.reconstruction import full_batches
from v2l_jax.run.workdir import environment
from v2l_jax.tokenizers.released import load_tokenizer
from v2l_jax.tokenizers.v2l import V2L

TYPES = ("tf32", "bfloat16")
HEAD = ("words", "type", "as float32", "95 % interval", "words compared")
_PRODUCTS = ("dot_general", "conv_general_dilated")
_CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "remat")


def rounded_to_tf32(x: jax.Array) -> jax.Array:
    """float32 with 10 bits of mantissa, to the nearest, halves to the even one."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & jnp.uint32(0xFFFFE000)
    return lax.bitcast_convert_type(bits, jnp.float32)


def with_tf32(function: Callable) -> Callable:
    """The function with the factors of its TF32 products rounded; arguments are pytrees of arrays.

    Raises:
      ValueError: when called, if such a product stands in a loop or a branch, where it would not be
        rounded.
    """

    def emulated(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        values = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return emulated


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = {}
    known.update(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    read = lambda variable: variable.val if isinstance(variable, Literal) else known[variable]
    for equation in jaxpr.eqns:
        values, name = [read(variable) for variable in equation.invars], equation.primitive.name
        inner = [value for value in equation.params.values() if _is_jaxpr(value)]
        if name in _CALLS:
            (program,) = inner
            results = _evaluate(program.jaxpr, program.consts, values)
        else:
            if name in _PRODUCTS and _is_tf32(equation):
                values = [rounded_to_tf32(value) for value in values]
            elif any(_has_tf32(program) for program in jax.tree.leaves(inner, is_leaf=_is_jaxpr)):
                raise ValueError(f"a product in TF32 stands in a {name}")
            bound = equation.primitive.bind(*values, **equation.params)
            results = bound if equation.primitive.multiple_results else [bound]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr)


def _is_tf32(equation: Any) -> bool:
    precision = equation.params["precision"]
    single = all(variable.aval.dtype == jnp.float32 for variable in equation.invars)
    return single and lax.Precision.HIGH in (precision if precision is not None else ())


def _has_tf32(program: ClosedJaxpr) -> bool:
    for equation in program.jaxpr.eqns:
        if equation.primitive.name in _PRODUCTS and _is_tf32(equation):
            return True
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        if any(_is_jaxpr(value) and _has_tf32(value) for value in inner):
            return True
    return False


def in_type(make: Callable[[Any], Callable], name: str) -> Callable:
    """`make(type)` compiled, with TF32 emulated."""
    function = make(type_named(name))
    return jax.jit(with_tf32(function) if name == "tf32" else function)


def share(stream: str, name: str, found: np.ndarray, expected: np.ndarray) -> Result:
    """The share of equal ids, with the interval of its mean over images [images, …]."""
    equal = (found == expected).reshape(len(expected), -1)
    return mean("same_words", equal.mean(1), stream=stream, type=name, words=equal.size)


def measured(config: ConfigDict, images: int, with_tower: bool) -> list[Result]:
    """A result for each stream and type."""
    photos = loading.photos(config).held_out
    source = Subset(photos, np.arange(min(images, len(photos))))
    released, mesh = load_tokenizer("v2l-mini"), loading.mesh(config)
    config.model.image_size = released.image_size
    dim, vectors = released.model.word_dim, {}
    if with_tower:
        vectors = {name: _embeddings(config, name, source) for name in ("float32", *TYPES)}
    exact = vectors.get("float32", np.ones((len(source), dim), np.float32))
    tokenizer = V2L(released.model, released.global_tokens)
    tokens = {}
    for name in ("float32", *TYPES):
        given = WithVectors(source, vectors.get(name, exact))
        encode = in_type(lambda dtype: tokenizer.with_dtype(dtype).encode, name)
        batches = full_batches(config, tokenizer, given, mesh)
        parts = [
            jax.tree.map(lambda x, n=n: np.asarray(x)[:n], encode(released.variables, batch))
            for batch, n in batches
        ]
        tokens[name] = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    streams = ("local", "global") if with_tower else ("local",)
    return [
        share(stream, name, tokens[name][stream], tokens["float32"][stream])
        for stream in streams
        for name in TYPES
    ]


def _embeddings(config: ConfigDict, name: str, source: Any) -> np.ndarray:
    config = ConfigDict(config.to_dict())
    config.tower_options.dtype = name
    tower = loading.image_text_tower(config)
    encode = with_tf32(tower.encode_image) if name == "tf32" else tower.encode_image
    encode, size, rows = jax.jit(encode), config.tower_options.batch_size, []
    for start in range(0, len(source), size):
        records = [source[i]["image"] for i in range(start, min(start + size, len(source)))]
        images = np.stack([tower.preprocess(image) for image in records])
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), 0)])
        rows.append(np.asarray(encode(tower.params, filled))[: len(images)])
    return np.concatenate(rows)


def main(argv: Sequence[str]) -> None:
    """Prints the machine and the table."""
    del argv
    cpu_settings.apply()
    default = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"
    config, known = experiment.load(str(default), []), environment()
    print(f"\n{known['cpu']}; jax {jax.__version__} on {known['devices']}\n")
    for cells in (HEAD, ["---"] * len(HEAD)):
        print("| " + " | ".join(cells) + " |", flush=True)
    for result in measured(config, flags.FLAGS.images, flags.FLAGS.tower):
        about, (low, high) = result.measured_on, result.ci95 or (np.nan, np.nan)
        interval = f"{low:.3%} to {min(high, 1.0):.3%}"
        cells = [about["stream"], about["type"], f"{result.value:.3%}", interval, about["words"]]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("images", 232, "Photos, the first of those held out.")
    flags.DEFINE_bool(
        "tower", True, "Global words too: the tower looks at each photo in each type."
    )
    app.run(main)
