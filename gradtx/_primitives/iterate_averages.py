"""Schedule-Free: an average of the iterates instead of a decaying learning rate, and gradients between the two."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradtx._core import dtypes, trees
from gradtx._core.hyperparameters import Decay, decay_field, number_field
from gradtx._core.slots import Slot, slot_storage
from gradtx._core.stages import Leaves, Step, Treewise

Slots = dict[str, jax.Array]

KEPT = frozenset({"z", "max_lr", "weight_sum", "z_share"})


class average_iterates(Treewise):
    r"""Let the update $u_t$ move a sequence $z$ of its own, and train between $z$ and its average $x$. Put it last.

    $$z_{t+1} = z_t + u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad
      y_{t+1} = (1 - b_1) z_{t+1} + b_1 x_{t+1}$$

    with $c_t = w_t / \sum_{i \le t} w_i$ and $w_t = (\max_{i \le t} \gamma_i)^r$. The trained parameters are $y$, where
    gradients are taken; $x$, for evaluation, follows from $y$ and $z$: `schedule_free_eval_params`. What is added to $y$ is
    computed without the difference of two of these points that are nearly the same,

    $$y_{t+1} - y_t = c_t (z_t - y_t) + (1 - b_1 + b_1 c_t) u_t,$$

    the sum of weights as two floats, in units of the largest rate, so that no power of a small rate underflows.

    Args:
        learning_rate: $\gamma$, the rate in $u$; a number or a schedule. Only its changes matter.
        b1: $b_1$ in (0, 1); may be a schedule.
        weight_lr_power: $r \ge 0$; 0 is the plain mean.
        state_dtype: the dtype in which $z$ is stored; None is float32 (float64 for float64 parameters).

    State:
        `z`: like the parameters, at first a copy of them. `max_lr`: float. `weight_sum`: float[2]. `z_share`: float, the
        last $1 - b_1$.

    Raises:
        ValueError: `b1` is 0, and $x$ would be lost.

    Source:
        Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, equations 3-5 and Algorithm 1; the maximum of the
        rates as in the authors' code.
    """

    learning_rate: Any = number_field()
    b1: Any = decay_field(default=0.9)
    weight_lr_power: Any = number_field(default=2.0, minimum=0.0)
    state_dtype: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.b1, Decay) and isinstance(self.b1.complement, float) and self.b1.complement == 1:
            raise ValueError("average_iterates(b1=...): expected a number in (0, 1), got 0: the average would be lost")
        object.__setattr__(self, "state_dtype", slot_storage(self.state_dtype, self, "state_dtype"))

    def slots(self) -> tuple[Slot, ...]:
        scalars = (Slot("max_lr", "scalar"), Slot("weight_sum", "scalar", shape=(2,)), Slot("z_share", "scalar"))
        return (Slot("z", dtype=self.state_dtype, initial="parameter"), *scalars)

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        old, (high, low), before = (step.memory[name] for name in ("max_lr", "weight_sum", "z_share"))
        power, largest = step.value(self.weight_lr_power), jnp.maximum(old, step.value(self.learning_rate))
        unit, old_unit = _exponent(largest), _exponent(old)
        weight = jnp.where(largest > 0, largest * jnp.exp2(-unit), 1) ** power
        weight = jnp.where((largest > 0) | (power == 0), weight, 0)
        shrink = jnp.where(old > 0, jnp.exp2((old_unit - unit) * power), 1)
        high, low = _add(high * shrink, low * shrink + weight)
        c = jnp.where(high > 0, weight / jnp.where(high > 0, high, 1), 0)

        share = step.complement(self.b1)
        before = jnp.where(step.count == 0, share, before)
        pull = (c * (1 - share) + (share - before)) / (1 - before)  # c, unless b1 has changed
        memory = {"max_lr": largest, "weight_sum": jnp.stack([high, low]), "z_share": share}
        return {"pull": pull, "push": share + c * (1 - share)}, memory

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        signals, slots = [], []
        for signal, old in zip(leaves.signals, leaves.slots, strict=True):
            update, z = _follow(self.state_dtype, old["z"], signal.param, signal.update, s.pull, s.push)
            signals.append(signal.write(update))
            slots.append({"z": z})
        return leaves.replace(signals=signals, slots=slots)


@functools.partial(jax.jit, static_argnums=0)
def _follow(
    stored: np.dtype | None, z: jax.Array, y: jax.Array, u: jax.Array, pull: jax.Array, push: jax.Array
) -> tuple[jax.Array, jax.Array]:
    real = dtypes.real_dtype(np.dtype(u.dtype))
    # The sequence z moves by what is stored: were y to move by something else, x would take the difference.
    new = z + u if stored is None else (z + u).astype(stored).astype(z.dtype)
    return pull.astype(real) * (z - y) + push.astype(real) * (new - z), new


def _exponent(x: jax.Array) -> jax.Array:
    """The exponent of the largest power of two up to a number >= 0, within the range of normal numbers."""
    smallest = jnp.finfo(x.dtype).tiny
    _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.maximum(x, smallest)))
    return (exponent - 1).astype(x.dtype)


def _add(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A sum and what it lost (Knuth's TwoSum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def schedule_free_eval_params(state: Any, params: Any) -> Any:
    r"""The average $x = y + (y - z) (1 - b_1) / b_1$, for evaluation, of parameters $y$ that were trained Schedule-Free.

    Args:
        state: a state with that of `schedule_free` anywhere in it, as it was returned with these parameters.
        params: the parameters $y$. Leaves that are trained otherwise (another group's) come back as they are.

    Returns:
        A tree like the parameters, in their dtypes. Before the first step the parameters themselves.

    Raises:
        ValueError: there is no such state.
    """
    leaves, treedef = trees.flatten(params, "the parameter")
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(x)]
    if not found:
        raise ValueError("schedule_free_eval_params: expected a state of schedule_free, found none in what was given")
    for kept in found:
        for i, z in enumerate(treedef.flatten_up_to(kept["z"])):
            if not isinstance(z, optax.MaskedNode):
                leaves[i] = _average(leaves[i], z, kept["z_share"])
    return jax.tree.unflatten(treedef, leaves)


def _average(param: Any, z: jax.Array, share: jax.Array) -> jax.Array:
    dtype = dtypes.compute_dtype(np.dtype(param.dtype))
    y, ratio = dtypes.cast(param, dtype), (share / (1 - share)).astype(dtypes.real_dtype(dtype))
    with jax.numpy_dtype_promotion("standard"):  # a complex parameter by a real number
        return dtypes.cast(y + (y - dtypes.cast(z, dtype)) * ratio, np.dtype(param.dtype))


def _is_ours(x: Any) -> bool:
    return isinstance(x, dict) and x.keys() == KEPT
