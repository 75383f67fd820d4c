"""Which activations are kept for the backward pass."""

from collections.abc import Callable

import jax

REMAT_POLICIES = ("none", "blocks", "all")
BLOCK_OUTPUT = "block_output"
"""What networks call (`checkpoint_name`) the arrays that go from block to block."""


def rematerialize(function: Callable, policy: str) -> Callable:
    """`function` as its backward pass will remember it.

    Args:
      function: what is differentiated.
      policy: "none" recomputes nothing (all activations are kept), "blocks" keeps what goes from
        block to block, "all" recomputes everything.
    """
    if policy == "none":
        return function
    keep = (
        jax.checkpoint_policies.save_only_these_names(BLOCK_OUTPUT) if policy == "blocks" else None
    )
    return jax.checkpoint(function, policy=keep)
