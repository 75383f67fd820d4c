"""The real train step and loader with a tiny tokenizer: killed and resumed, or not, the result is
the same bits.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.parallel.mesh import replicate
from v2l_jax.tokenizers.projector_upkeep import ProjectorUpkeep
from v2l_jax.tokenizers.v2l import V2L
from v2l_jax.tokenizers.v2l_network import V2LTokenizer
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.loop import fit
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.optimizer import make_optimizer, warmup_cosine
from v2l_jax.training.state import TrainState
from v2l_jax.training.step import make_train_step

NUM_STEPS = 8


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def run():
    """Returns `run(workdir, kill_at)`, which trains to the end or raises Killed after `kill_at`
    steps.
    """
    mesh = jax.make_mesh(
        (1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,)
    )
    rs = np.random.RandomState(0)
    model = V2LTokenizer(
        channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        z_channels=16,
        attn_resolutions=(),
        word_dim=24,
        num_local_words=50,
        num_global_words=20,
    )
    discriminator = PatchDiscriminator(channels=8, num_layers=1)
    image, image_embedding = jnp.zeros((8, 8, 8, 3)), jnp.zeros((8, 24))
    params = jax.jit(model.init, static_argnums=3)(
        jax.random.PRNGKey(0), image, image_embedding, 3
    )["params"]
    disc_variables = jax.jit(discriminator.init, static_argnums=2)(
        jax.random.PRNGKey(1), image, False
    )
    params, disc_variables = jax.device_get((params, disc_variables))
    words = {
        "local_words": jnp.asarray(rs.randn(50, 24), jnp.float32),
        "global_words": jnp.asarray(rs.randn(20, 24), jnp.float32),
    }
    frozen = replicate({"model": words}, mesh)
    tx = make_optimizer(warmup_cosine(1e-3, 2, NUM_STEPS))
    disc_tx = make_optimizer(warmup_cosine(1e-3, 2, NUM_STEPS))
    tokenizer = V2L(model, global_tokens=3, upkeep=ProjectorUpkeep(revive_every=4))
    step_fn = make_train_step(
        tokenizer, discriminator, None, LossWeights(disc_start=2), tx, disc_tx
    )

    def transform(record, rng):
        image = record["image"].astype(np.float32) / 127.5 - 1
        if rng.random() < 0.5:
            image = image[:, ::-1]
        return {"image": image, "image_embedding": rng.standard_normal(24).astype(np.float32)}

    def train(workdir, kill_at=None):
        def killing(state, batch, frozen):
            if int(state.step) == kill_at:
                raise Killed
            return step_fn(state, batch, frozen)

        variables = {"params": params, "memory": jnp.zeros(50, bool)}
        state = TrainState.create(variables, disc_variables, tx, disc_tx, jax.random.PRNGKey(2))
        loader = make_loader(SyntheticSource(20, 8), transform, batch_size=8, seed=3)
        options = {"num_steps": NUM_STEPS, "mesh": mesh, "log_every": 2, "checkpoint_every": 2}
        with Checkpointer(workdir / "checkpoints") as checkpointer:
            log = MetricLog(workdir)
            return fit(
                replicate(state, mesh),
                killing,
                loader,
                frozen,
                checkpointer=checkpointer,
                metric_log=log,
                **options,
            )

    return train


def test_killed_run_ends_with_the_same_bits(tmp_path, run):
    whole = run(tmp_path / "whole")
    for kill_at in (1, 3, 6):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill_at)
    resumed = run(tmp_path / "killed")
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(
            np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path)
        )
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert rows[0] == rows[1] and rows[0].count(b"\n") == 4
    disc = jax.tree.leaves(whole.disc_opt_state)
    assert any(np.abs(np.asarray(leaf)).max() > 0 for leaf in disc), "the discriminator trained too"
