"""The scalar half of every running average: how much this step counts, and how much the past weighs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.schedule import Schedule
from gradtx._core.slots import Slot
from gradtx._core.stages import Step

WEIGHT = "weight"


def weight_slot(decay: Any) -> tuple[Slot, ...]:
    """The state that a scheduled decay needs: its total weight as two floats, and the part of the start that is left.

    A constant decay has closed forms.
    """
    return (Slot(WEIGHT, role="scalar", shape=(3,)),) if isinstance(decay, Schedule) else ()


def average(step: Step, decay: Any, *, unit_gain: bool = False) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    r"""The numbers of a running average $a_t = b_t a_{t-1} + \gamma_t x_t$.

    With the total weight $w_t = b_t w_{t-1} + \gamma_t$ the mean $\hat a_t = a_t / w_t$ obeys
    $\hat a_t = \hat a_{t-1} + q_t (x_t - \hat a_{t-1})$ with $q_t = \gamma_t / w_t$. It is what we store: its weights sum to
    one exactly, in float32 too, where the coefficients $b$ and $1-b$ do not.

    For a constant decay $w_t = \gamma (1 - b^t) / (1 - b)$, computed as `-expm1(t * log1p(-(1 - b)))`. For a schedule
    it is accumulated as the sum of two floats, since a single one would lose 3e-5 in a million steps.

    Args:
        step: the step.
        decay: $b$, a `Decay` or a schedule.
        unit_gain: $\gamma = 1$ (a trace) instead of $1 - b$ (an exponential moving average).

    Returns:
        Scalars `rate` ($q$), `weight` ($w$), `left` ($\prod b$, what is left of the start: $1 - w$ for an exponential
        moving average, without its cancellation), `retain` ($b$), `gain` ($\gamma$), and the new weight slot.
    """
    complement = step.complement(decay)
    gain = jnp.ones_like(complement) if unit_gain else complement
    memory = {}
    if isinstance(decay, Schedule):
        high, low, left = step.memory[WEIGHT]
        change = gain - complement * high - complement * low + low
        weight = high + change
        left = (1 - complement) * jnp.where(step.count == 0, 1, left)
        memory = {WEIGHT: jnp.stack([weight, change - (weight - high), left])}
    else:
        # log1p(-1) is -inf, and its derivative too: b = 0 is taken as b = 1 ulp.
        largest = 1 - np.finfo(complement.dtype).epsneg
        exponent = step.t * jnp.log1p(-jnp.minimum(complement, largest))
        covered = jnp.where(step.count == 0, complement, -jnp.expm1(exponent))
        weight = covered * (gain / complement)
        left = jnp.exp(exponent)
    # A schedule may begin at b = 1, with no weight at all: then nothing is averaged yet.
    share = jnp.where(weight == 0, 0, gain / jnp.where(weight == 0, 1, weight))
    rate = jnp.where(share > 1, 1, share)
    return {"rate": rate, "weight": weight, "left": left, "retain": 1 - complement, "gain": gain}, memory


def weight_before(step: Step, decay: Any) -> jax.Array:
    """The total weight of an exponential moving average before this step, $w_{t-1}$; see `average`."""
    if isinstance(decay, Schedule):
        high, low, _ = step.memory[WEIGHT]
        return high + low
    complement = step.complement(decay)
    largest = 1 - np.finfo(complement.dtype).epsneg
    return -jnp.expm1((step.t - 1) * jnp.log1p(-jnp.minimum(complement, largest)))


def towards(mean: jax.Array, x: jax.Array, rate: jax.Array) -> jax.Array:
    """`mean + rate * (x - mean)`, started from whichever of the two weighs more: `x` itself where the rate is 1."""
    mostly_x = rate > 0.5
    # From x it is `x + (1 - rate) * (mean - x)`: both signs turned, so that one difference serves both.
    return jnp.where(mostly_x, x, mean) + jnp.where(mostly_x, rate - 1, rate) * (x - mean)
