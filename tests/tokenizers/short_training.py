"""A few steps of a tokenizer alone, without discriminator and LPIPS: seconds instead of a minute of
compiling.
"""

import jax
import jax.numpy as jnp
import optax


def train(tokenizer, frozen, batch, steps, learning_rate=3e-3):
    """Losses by name at each step, with "image" for the mean absolute error; then the variables."""
    batch, frozen = jax.tree.map(jnp.asarray, (batch, frozen))
    variables = jax.jit(tokenizer.init)(jax.random.key(0), batch) | {"frozen": frozen}
    tx = optax.adam(learning_rate)
    opt_state, rows = tx.init(variables["params"]), []

    @jax.jit
    def step(params, opt_state, number):
        def total(params):
            given, key = variables | {"params": params}, jax.random.key(number)
            out = tokenizer.train_forward(given, batch, step=number, key=key)
            losses = out.losses | {"image": jnp.mean(jnp.abs(out.image - batch["image"]))}
            weights = tokenizer.loss_weights
            own = sum(weight * losses[name] for name, weight in weights.items())
            return losses["image"] + own, losses

        (loss, losses), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, losses | {"loss": loss}

    params = variables["params"]
    for number in range(steps):
        params, opt_state, losses = step(params, opt_state, jnp.int32(number))
        rows.append({name: float(value) for name, value in losses.items()})
    return rows, variables | {"params": params}
