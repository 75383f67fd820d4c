"""Training steps of adapters: what is trained, against torch and PEFT; resuming; NaN; devices."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import NanLossError
from v2l_jax.llm.adapter_step import (
    adapter_loss,
    adapter_optimizer,
    eval_adapters,
    initial_state,
    make_adapter_step,
)
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import Lora
from v2l_jax.llm.peft_files import save_adapters
from v2l_jax.llm.training_texts import AnswerTexts, Asked
from v2l_jax.parallel.mesh import make_mesh, replicate, shard_batch
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog

CONFIG = LlamaConfig(40, 32, 48, 2, 4, 2, 8, 64, 1e-5, rotary_frequencies(8, 10000.0))
MODEL = Llama(CONFIG)
LORA = Lora(2, 8.0)
TX = adapter_optimizer(1e-2, 2, 30)
STEP = make_adapter_step(MODEL, LORA, TX)


def _batch(step=0, rows=8):
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, 40, (rows, 10)).astype(np.int32)
    tokens[:, 5:] = tokens[:, :5]  # something to learn: the second half repeats the first
    return {"tokens": tokens, "targets": np.tile(np.arange(5, 10, dtype=np.int32), (rows, 1))}


@pytest.fixture(scope="module")
def params():
    start = MODEL.init(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    )["params"]
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start) | {
        name: start[name] * 10 for name in ("embedding", "output")
    }


def _state():
    return initial_state(jax.random.key(1), MODEL, LORA, TX)


class Batches(Iterator):
    """Endless batches; `hook(step)` is called as each is drawn."""

    def __init__(self, hook=lambda step: None):
        self.step, self.hook = 0, hook

    def __next__(self):
        self.step += 1
        self.hook(self.step)
        return _batch(self.step)

    def get_state(self):
        return self.step

    def set_state(self, step):
        self.step = step


def _train(params, workdir, batches, steps=12):
    mesh = make_mesh({"data": -1})
    with Checkpointer(workdir / "checkpoints") as checkpoints:
        options = dict(
            num_steps=steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(workdir),
            log_every=2,
            checkpoint_every=4,
        )
        return fit(replicate(_state(), mesh), STEP, batches, replicate(params, mesh), **options)


def test_only_adapters_have_a_gradient_and_optimizer_state(params):
    state = _state()
    sizes = lambda tree: sorted(x.size for x in jax.tree.leaves(tree) if x.ndim)
    assert sizes(state.opt_state) == sorted(
        2 * sizes(state.adapters)
    )  # Adam's two moments, and nothing of the base
    before = jax.tree.map(np.asarray, params)
    after, _ = STEP(state, _batch(), params)
    assert jax.tree.structure(after) == jax.tree.structure(_state())
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert all(np.any(x) for x in jax.tree.leaves(STEP(after, _batch(1), params)[0].adapters))


def test_steps_on_one_batch_lower_its_loss(params):
    state, losses = _state(), []
    for _ in range(30):
        state, metrics = STEP(state, _batch(), params)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.2


def test_the_average_is_that_of_all_steps_and_what_is_evaluated(params):
    tx = adapter_optimizer(1e-2, 2, 30, ema_decay=0.5)
    step, state = (
        make_adapter_step(MODEL, LORA, tx),
        initial_state(jax.random.key(1), MODEL, LORA, tx),
    )
    plain, expected = _state(), jax.tree.map(np.asarray, state.adapters)
    for i in range(8):
        state, _ = step(state, _batch(i), params)
        plain, _ = STEP(plain, _batch(i), params)
        kept = min(0.5, (1 + i) / (10 + i))
        expected = jax.tree.map(
            lambda a, b: kept * a + (1 - kept) * np.asarray(b), expected, plain.adapters
        )
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(close, state.adapters, plain.adapters)  # training goes on as without
    jax.tree.map(close, eval_adapters(state), expected)
    assert eval_adapters(plain) is plain.adapters


def test_padding_and_chunks_change_nothing(params):
    batch = _batch()
    padded = {
        name: np.pad(rows, ((0, 0), (0, 3)), constant_values=-1) for name, rows in batch.items()
    }
    loss = jax.jit(
        lambda batch, chunk: adapter_loss(MODEL, params, _state().adapters, 4.0, batch, chunk),
        static_argnums=1,
    )
    np.testing.assert_allclose(loss(padded, 7), loss(batch, 256), rtol=1e-6)


@pytest.mark.mesh
def test_eight_devices_step_like_one(params):
    mesh, state = make_mesh({"data": -1}), _state()
    state = state.replace(adapters=jax.tree.map(lambda x: x + 0.01, state.adapters))
    spread, metrics = STEP(
        replicate(jax.tree.map(jnp.copy, state), mesh),
        shard_batch(_batch(), mesh),
        replicate(params, mesh),
    )
    alone, expected = STEP(state, _batch(), params)
    np.testing.assert_allclose(metrics["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    assert int(spread.step) == int(alone.step) == 1


def test_a_killed_run_ends_like_one_that_was_not(params, tmp_path):
    def interrupt(step):
        if step == 7:
            raise KeyboardInterrupt

    whole = _train(params, tmp_path / "whole", Batches())
    with pytest.raises(KeyboardInterrupt):
        _train(params, tmp_path / "killed", Batches(interrupt))
    resumed = _train(params, tmp_path / "killed", Batches())
    assert int(resumed.step) == 12
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1] and logs[0].count("loss") == 6


def test_a_loss_that_is_no_number_stops_the_run(params, tmp_path):
    spoiled = params | {"final_norm": params["final_norm"] * jnp.nan}
    with pytest.raises(NanLossError, match="is nan at step 1"):
        _train(spoiled, tmp_path, Batches())


def test_gradients_equal_those_of_peft(torch, tmp_path):
    peft = pytest.importorskip(
        "peft", reason="peft is not installed: make test-parity runs this test"
    )
    import transformers

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, attn_implementation="eager")
    ).float()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    base.save_pretrained(tmp_path / "base")
    config, params = load_llama(tmp_path / "base")
    adapters = jax.tree.map(
        lambda x: x + 0.01 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), _state().adapters
    )
    save_adapters(tmp_path / "adapters", adapters, LORA, "tiny")
    model, batch = (
        peft.PeftModel.from_pretrained(base, tmp_path / "adapters", is_trainable=True),
        _batch(),
    )
    labels = np.full_like(batch["tokens"], -100)
    labels[:, 5:] = batch["tokens"][:, 5:]
    loss = model(
        torch.from_numpy(batch["tokens"].astype(np.int64)),
        labels=torch.from_numpy(labels.astype(np.int64)),
    ).loss
    loss.backward()
    value, gradient = jax.jit(
        jax.value_and_grad(lambda a: adapter_loss(Llama(config), params, a, LORA.scale, batch))
    )(adapters)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
    assert len(theirs) == 8 and max(np.abs(g).max() for g in theirs.values()) > 1e-2
    for target, matrices in gradient.items():
        for matrix, stack in matrices.items():
            for layer, rows in enumerate(stack):
                name = f"layers.{layer}.self_attn.{target}.{matrix}.default.weight"
                np.testing.assert_allclose(
                    rows, theirs[f"base_model.model.model.{name}"], atol=1e-5
                )


def test_texts_that_begin_alike_read_it_once(params):
    """Loss and gradients are those of whole texts, one a row."""
    rng = np.random.default_rng(0)
    begin = [rng.integers(0, 40, n).tolist() for n in (4, 6)]
    rests = [[rng.integers(0, 40, n).tolist() for n in lengths] for lengths in ((3, 5), (4,))]
    rows = [
        Asked(image, [*begin[image], *rest[:-2]], rest[-2:])
        for image, texts in enumerate(rests)
        for rest in texts
    ]
    texts = AnswerTexts({"train": rows})
    together = dataclasses.replace(texts, together=2)
    assert (texts.count("train"), together.count("train")) == (3, 2)
    batch = together.texts("train", np.array([0, 1]), (0,))
    assert batch["prefix"].tolist() == [begin[0], begin[1][:4]]
    adapters = jax.tree.map(lambda x: x + 0.01, _state().adapters)
    both = jax.value_and_grad(lambda a, batch: adapter_loss(MODEL, params, a, 4.0, batch))
    value, gradient = both(adapters, batch)
    expected, wanted = both(adapters, texts.texts("train", np.arange(3), (0,)))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), gradient, wanted)
