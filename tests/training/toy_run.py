"""A training run small enough to kill many times: `python toy_run.py WORKDIR [SIGNAL STEP]`.

Linear regression with noise from the state's PRNG and two optimizers, like the tokenizer's. SIGNAL
is sent to the process itself when the batch of STEP is drawn.
"""

import functools
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from v2l_jax.errors import V2LError
from v2l_jax.parallel.mesh import make_mesh, replicate
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.state import TrainState

NUM_STEPS = 23
TX, DISC_TX = optax.adam(1e-2), optax.sgd(1e-2, momentum=0.9)


class Loader:
    """Shuffles 40 records anew each epoch; batches of 8."""

    def __init__(self, before_step=None, steps=10**9):
        self.position = 0
        self.before_step = before_step or {}
        self.steps = steps

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= self.steps:
            raise StopIteration
        self.before_step.get(self.position + 1, lambda: None)()
        epoch, batch = divmod(self.position, 5)
        order = np.random.RandomState(epoch).permutation(40)[batch * 8 : batch * 8 + 8]
        self.position += 1
        x = np.random.RandomState(9).randn(40, 16).astype("float32")[order]
        return {"x": x, "y": np.sin(x.sum(axis=1))}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def new_state():
    rs = np.random.RandomState(0)
    disc = {
        "params": {"v": jnp.asarray(rs.randn(16), jnp.float32)},
        "batch_stats": {"mean": jnp.zeros(16)},
    }
    params = {"w": jnp.asarray(rs.randn(16), jnp.float32)}
    return replicate(
        TrainState.create({"params": params}, disc, TX, DISC_TX, jax.random.PRNGKey(0)),
        make_mesh({"data": -1}),
    )


@functools.cache
def make_step(nan_loss_at=None, nan_params_at=None):
    def step(state, batch, frozen):
        noise = 0.1 * jax.random.normal(jax.random.fold_in(state.rng, state.step), batch["x"].shape)
        number = state.step + 1

        def loss(params, key):
            return (
                jnp.mean(((batch["x"] + noise) @ params[key] - batch["y"]) ** 2) * frozen["scale"]
            )

        value, grads = jax.value_and_grad(loss)(state.params, "w")
        disc_value, disc_grads = jax.value_and_grad(loss)(state.disc_params, "v")
        updates, opt_state = TX.update(grads, state.opt_state)
        disc_updates, disc_opt_state = DISC_TX.update(disc_grads, state.disc_opt_state)
        if nan_params_at is not None:
            updates = jax.tree.map(
                lambda u: jnp.where(number == nan_params_at, jnp.nan, u), updates
            )
        if nan_loss_at is not None:
            value = jnp.where(number == nan_loss_at, jnp.nan, value)
        state = state.replace(
            step=number,
            params=optax.apply_updates(state.params, updates),
            disc_params=optax.apply_updates(state.disc_params, disc_updates),
            disc_batch_stats={
                "mean": 0.9 * state.disc_batch_stats["mean"] + 0.1 * batch["x"].mean(axis=0)
            },
            opt_state=opt_state,
            disc_opt_state=disc_opt_state,
        )
        return state, {
            "loss": value,
            "discriminator_loss": disc_value,
            "psnr": -10 * jnp.log10(value),
        }

    return jax.jit(step, donate_argnums=0)


def evaluate(state):
    return {"distance": float(jnp.abs(state.params["w"]).sum())}


def train(workdir, *, loader=None, step_fn=None, num_steps=NUM_STEPS, **options):
    """One run, or what is left of it; options replace those of `fit`."""
    options = {
        "log_every": 5,
        "checkpoint_every": 6,
        "eval_every": 8,
        "evaluate": evaluate,
    } | options
    workdir = pathlib.Path(workdir)
    log = MetricLog(workdir)
    with Checkpointer(workdir / "checkpoints", best_metric="distance") as checkpointer:
        return fit(
            new_state(),
            step_fn or make_step(),
            loader or Loader(),
            {"scale": jnp.float32(1.5)},
            num_steps=num_steps,
            mesh=make_mesh({"data": -1}),
            checkpointer=checkpointer,
            metric_log=log,
            **options,
        )


def main(workdir, name=None, step=0):
    hook = {int(step): lambda: os.kill(os.getpid(), getattr(signal, name))} if name else {}
    try:
        state = train(workdir, loader=Loader(hook))
    except V2LError as error:
        sys.exit(str(error))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    np.savez(pathlib.Path(workdir) / "final.npz", *leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
