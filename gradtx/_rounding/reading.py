"""Parameters with all the bits that the state keeps of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import dtypes, trees
from gradtx._primitives.parameter_averages import stages_with_state
from gradtx._rounding.compensated import compensated
from gradtx._rounding.master import master_weights, put_together


def master_parameters(tx: Any, state: Any, params: Any) -> Any:
    """What 16-bit parameters would be without rounding: the master weights, or the parameters and their residuals.

    Args:
        tx: a gradtx transformation with `master_weights` or `compensated` anywhere in it.
        state: its state, as it was returned with these parameters.
        params: the parameters. Leaves of which the state keeps no further bits are the answer themselves.

    Returns:
        A tree like the parameters, float32 where the state keeps more bits.

    Raises:
        ValueError: there is no such stage.
    """
    found = [e for s, e in stages_with_state(tx, state) if isinstance(s, (compensated, master_weights))]
    if not found:
        raise ValueError(f"there is no master_weights or compensated in {tx!r}")
    leaves, treedef = trees.flatten(params, "the parameter")
    for entry in found:
        ((name, tree),) = entry.items()
        for i, kept in enumerate(treedef.flatten_up_to(tree)):
            if not isinstance(kept, optax.MaskedNode):
                leaves[i] = _whole(name, leaves[i], kept)
    return jax.tree.unflatten(treedef, leaves)


def _whole(name: str, param: Any, kept: Any) -> jax.Array:
    if name == "master":
        return jnp.asarray(kept)
    wide = dtypes.cast(param, np.dtype(np.float32))
    if name == "low_bits":
        return put_together(wide, kept, np.dtype(param.dtype))
    return wide + kept.astype(wide.dtype)
