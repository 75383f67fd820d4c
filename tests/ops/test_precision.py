"""Products are as exact as their type says: every product of every program is looked at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from launch import programs
from tests import synthetic_config
from v2l_jax.codebook.nearest_centres import _search
from v2l_jax.llm.adapter_step import adapter_optimizer, initial_state, make_adapter_step
from v2l_jax.llm.attention_maps import attention_maps
from v2l_jax.llm.connector import connect, init_connector
from v2l_jax.llm.llama import Llama, init_cache
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import PROJECTIONS, Lora
from v2l_jax.metrics.image_quality import image_quality
from v2l_jax.ops.precision import TF32, precision_of, products_in, type_named
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.representations.frozen import frozen_loss, init_map
from v2l_jax.representations.token_choice import _pick
from v2l_jax.run import building
from v2l_jax.tokenizers.quantizers import quantizers
from v2l_jax.tokenizers.quantizers.codebook import PlainCodebook
from v2l_jax.tokenizers.quantizers.words import WordVectors
from v2l_jax.towers import (
    bert,
    clip,
    conse,
    efficientnet,
    inception,
    roberta,
    transformer,
    vgg,
    vit,
)

_HIGHEST, _HIGH = (lax.Precision.HIGHEST,) * 2, (lax.Precision.HIGH,) * 2
_EXACT, _FAST = {_HIGHEST}, {_HIGHEST, _HIGH}


def products(jaxpr):
    """Every matrix product and convolution, those of inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from products(getattr(value, "jaxpr", value))


def _is_jaxpr(value):
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


def coarse(jaxpr, allowed=frozenset(_EXACT)):
    """Products of two float32 operands that multiply in less, and where they are written.

    An operand of bfloat16 is exact in every precision; with one, the type is bfloat16's.
    """
    found = []
    for equation in products(jaxpr):
        types = {x.aval.dtype for x in equation.invars}
        if types == {np.dtype("float32")} and equation.params["precision"] not in allowed:
            found.append(f"{equation.params['precision']}: {equation.source_info.traceback}")
    return found


def traced(function, *arguments):
    return jax.make_jaxpr(function)(*arguments).jaxpr


def check(function, *arguments, dtype=jnp.float32):
    """Fails where a product is coarser than the type, or where there is none to look at."""
    jaxpr = traced(function, *arguments)
    found = coarse(jaxpr, _FAST if dtype is TF32 else _EXACT)
    assert not found, f"{len(found)} products, the first {found[0]}"
    kinds = {equation.params["precision"] for equation in products(jaxpr)}
    assert kinds
    if dtype is TF32:
        assert _HIGH in kinds


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def shapes_of(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    "inner",
    [
        lambda x: jax.jit(jnp.dot)(x, x),
        lambda x: lax.scan(lambda carry, _: (carry @ x, None), x, length=2)[0],
        lambda x: lax.cond(x[0, 0] > 0, lambda y: y @ x, lambda y: y, x),
        lambda x: jax.checkpoint(jnp.matmul)(x, x),
        lambda x: lax.platform_dependent(x, cpu=lambda y: y, default=lambda y: y @ y),
        lambda x: jax.grad(lambda y: jnp.sum(jnp.sin(y @ x)))(x),
        lambda x: lax.conv(x[None, None], x[None, None], (1, 1), "SAME"),
    ],
)
def test_a_coarse_product_is_found_wherever_it_hides(inner):
    assert coarse(traced(inner, floats(3, 3)))
    with products_in(jnp.float32):
        assert not coarse(traced(inner, floats(3, 3)))


def test_types_have_names():
    assert type_named("tf32") is TF32 and str(TF32) == "tf32" and jnp.zeros(1, TF32).dtype == "f"
    kinds = [precision_of(type_named(name)) for name in ("float32", "tf32", "bfloat16")]
    assert kinds == [lax.Precision.HIGHEST, lax.Precision.HIGH, lax.Precision.DEFAULT]


WORDS = {"local": floats(12, 8), "global": floats(9, 8), "candidates": floats(12, 8)}
_LANGUAGE_MODEL = roberta.MaskedLanguageModel(
    "tiny", bert.BertConfig(12, 8, 1, 2, 16, 40), mask_id=3, pad_id=1
)


def _language_model_shapes():
    encoder = bert.Bert(_LANGUAGE_MODEL.config)
    params = shapes_of(encoder, ints(1, 4), ints(1))["params"]
    head = {"dense": {"kernel": floats(8, 8), "bias": floats(8)}, "bias": floats(12)}
    return params | {"head": head | {"norm": {"scale": floats(8), "bias": floats(8)}}}


def _config(kind, changes):
    config = synthetic_config.get_config()
    config.model.kind = kind
    config.model.update(channels=32, attn_resolutions=(16,), resolution=16, z_channels=8)
    config.model.num_res_blocks = 1
    if changes:
        config.model[kind].update(changes)
    return config


_TOKENIZERS = {
    "v2l in TF32": ("v2l", {}, "tf32"),
    "v2l in bfloat16": ("v2l", {}, "bfloat16"),
    "spae": ("spae", {"sides": (1, 2, 16), "thresholds": (0.9, 0.8)}, "float32"),
    "titok": ("titok", {"tokens": 4, "hidden": 8, "layers": 1, "heads": 2, "rows": 16}, "bfloat16"),
    "lqae": (
        "lqae",
        {"patch": 4, "layers": 1, "heads": 2, "inner": 16, "language_model": ""},
        "tf32",
    ),
}


@pytest.mark.parametrize(("kind", "changes", "dtype"), _TOKENIZERS.values(), ids=_TOKENIZERS)
def test_tokenizers(kind, changes, dtype):
    """Training losses and their gradients, words, and images of words."""
    config = _config(kind, changes)
    config.model.dtype = dtype
    tokenizer = building.tokenizer(config, WORDS)
    frozen = tokenizer.frozen(WORDS)
    if kind == "lqae":
        tokenizer = tokenizer.__class__(
            **{**vars(tokenizer), "model": _LANGUAGE_MODEL, "ste": True, "entries": 12}
        )
        frozen = frozen | {"language_model": _language_model_shapes()}
    batch = {name: floats(2, *shape) for name, shape in tokenizer.input_shapes(16).items()}
    variables = jax.eval_shape(tokenizer.init, jax.random.key(0), batch) | {"frozen": frozen}

    def loss(params, variables, batch):
        given = variables | {"params": params}
        out = tokenizer.train_forward(given, batch, step=jnp.int32(0), key=jax.random.key(0))
        return jnp.sum(jnp.abs(out.image)) + sum(out.losses.values())

    def everything(variables, batch):
        tokens = tokenizer.encode(variables, batch)
        image = tokenizer.decode(variables, tokens)
        return tokens, image, jax.grad(loss)(variables["params"], variables, batch)

    check(everything, variables, batch, dtype=type_named(dtype))


def test_quantizers():
    """Every one that can be chosen: ids, vectors, and its loss with its gradients."""
    known = {name: made() for name, made in quantizers().items()}
    known |= {"plain": PlainCodebook(12, 8, 1.0), "words": WordVectors(12, 8, True, True, True)}
    for name, quantizer in known.items():

        def everything(params, features, own=quantizer):
            variables = {"params": params, "frozen": own.frozen(WORDS)}
            read, ids = own.read(variables, features)

            def loss(params, features):
                found = own.quantize(variables | {"params": params}, features)
                return found.loss + jnp.sum(found.vectors * features)

            return read, ids, jax.grad(loss, (0, 1))(params, features)

        params = jax.eval_shape(quantizer.init, jax.random.key(0))
        assert not coarse(traced(everything, params, floats(1, 2, 2, quantizer.dim))), name


def test_the_train_step():
    config = _config("v2l", {})
    config.train.update(perceptual="lpips", weight_entropy=0.1, micro_batches=2)
    config.train.update(projector_fit_every=2, projector_fit_until=4)
    step = programs.train_step(
        config, make_mesh({"data": 1}, jax.devices()[:1]), programs.Words(12, 9, 8), 48
    )
    found = coarse(step.traced.jaxpr)
    assert not found, f"{len(found)} products, the first {found[0]}"
    assert any("conv" in equation.primitive.name for equation in products(step.traced.jaxpr))


_SIZES = transformer.TransformerConfig(8, 2, 2, 16, "gelu")
_LENGTHS = (ints(2, 5), ints(2))
_TYPES = (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_towers(dtype):
    images = floats(2, 8, 8, 3)
    modules = [
        (clip.ClipImage(clip.ClipImageConfig(_SIZES, 4, 8, 6), dtype), (images,)),
        (clip.ClipText(clip.ClipTextConfig(_SIZES, 20, 6, 6), dtype), _LENGTHS),
        (vit.Vit(vit.VitConfig(_SIZES, 4, 8, 1), matmul_dtype=dtype), (floats(2, 12, 8, 3),)),
        (bert.Bert(bert.BertConfig(20, 8, 1, 2, 16, 6), dtype), _LENGTHS),
        (efficientnet.EfficientNet(0.1, 0.1, 5, dtype), (floats(2, 32, 32, 3),)),
    ]
    for module, inputs in modules:
        apply = lambda variables, *given, own=module: own.apply(variables, *given)
        check(apply, shapes_of(module, *inputs), *inputs, dtype=dtype)


def test_lpips_and_its_gradient():
    images = (floats(2, 32, 32, 3),) * 2
    params = shapes_of(vgg.LPIPS(), *images)["params"]
    distance = lambda params, a, b: jnp.sum(vgg.lpips(params, a, b, TF32))
    check(jax.value_and_grad(distance, argnums=1), params, *images, dtype=TF32)


def test_metrics_and_small_maps():
    images = floats(2, 16, 16, 3)
    check(image_quality, images, images)
    network = inception.InceptionV3(10)
    params = shapes_of(network, floats(1, 299, 299, 3))["params"]
    check(inception.inception, params, jax.ShapeDtypeStruct((1, 20, 20, 3), jnp.uint8))
    check(functools.partial(_search, mesh=None), floats(20, 4), floats(6, 4))
    check(lambda x, y: conse.conse_embedding(x, y, 3, 1.0), floats(2, 5), floats(5, 4))
    check(functools.partial(_pick, count=3), floats(2, 4), floats(6, 4), ints(6), floats())
    params = jax.eval_shape(lambda key: init_connector(key, 4, 8, 2, 0.0, 1.0), jax.random.key(0))
    check(connect, params, floats(3, 4))


_LLAMA = LlamaConfig(20, 8, 16, 2, 4, 2, 4, 32, 1e-5, rotary_frequencies(4, 1e4))


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_the_language_model(dtype):
    """Prefill, a step of decoding, logits, and the training of adapters and of an image's map."""
    model, tokens = Llama(_LLAMA, dtype), ints(2, 6)
    params = shapes_of(model, tokens, tokens)["params"]

    def prefill(params, tokens):
        hidden, cache = model.apply({"params": params}, tokens, tokens, keep=True)
        return model.apply({"params": params}, hidden, method="logits"), cache

    def decode(params, cache, tokens):
        return model.apply({"params": params}, tokens, tokens, cache=cache)

    cache = jax.eval_shape(lambda: init_cache(_LLAMA, 2, 8, dtype))
    check(prefill, params, tokens, dtype=dtype)
    check(functools.partial(attention_maps, model), params, ints(6), dtype=dtype)
    check(decode, params, cache, ints(2, 1), dtype=dtype)
    lora, tx = Lora(targets=PROJECTIONS), adapter_optimizer(1e-3, 1, 10)
    state = jax.eval_shape(lambda: initial_state(jax.random.key(0), model, lora, tx))
    texts = {"tokens": tokens, "targets": ints(2, 3)}
    check(make_adapter_step(model, lora, tx), state, texts, params, dtype=dtype)
    learnt = jax.eval_shape(lambda: init_map(jax.random.key(0), 4, 2, jnp.zeros((20, 8))))
    batch = texts | {"vectors": floats(2, 4)}
    check(jax.grad(functools.partial(frozen_loss, model), 1), params, learnt, batch, dtype=dtype)
