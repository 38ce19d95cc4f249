"""Scaling: by the root of the second moment, by a number, by the learning rate; and doing nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradtx._core.hyperparameters import number_field
from gradtx._core.signal import Sense, Signal
from gradtx._core.stages import Leafwise

Slots = dict[str, jax.Array]


class scale_by_rms(Leafwise):
    r"""Divide the update by the root of the second moment that an estimator before it put into the signal.

    $$u \leftarrow \frac{u}{\sqrt{v + \epsilon_{\text{root}}} + \epsilon}$$

    A denominator of 0 (no epsilon, and no gradient yet) gives a zero update for a zero update, and its sign otherwise.

    Args:
        eps: $\epsilon \ge 0$, added outside the root.
        eps_root: $\epsilon_{\text{root}} \ge 0$, added inside the root.

    State:
        none. Unlike Optax's transformation of this name it does not estimate the moment itself.

    Raises:
        ValueError: no second moment was estimated before it in its scope.

    Source:
        Kingma & Ba, "Adam", arXiv:1412.6980, Algorithm 1, last line of the loop.
    """

    eps: Any = number_field(default=1e-8, minimum=0.0)
    eps_root: Any = number_field(default=0.0, minimum=0.0)

    requires: ClassVar[tuple[str, ...]] = ("second",)
    ignores_zeros: ClassVar[bool] = True

    def check_place(self, before: dict[str, Any]) -> None:
        before["second used"] = self

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        assert signal.second is not None
        return signal.write(signal.second.divide(signal.update, s.eps_root, s.eps))


def _times(signal: Signal, factor: jax.Array) -> Signal:
    sense = Sense(sign=jnp.where(factor < 0, -jnp.ones_like(factor), jnp.ones_like(factor)))
    return signal.times(factor).replace(sense=signal.sense.times(sense))


class scale(Leafwise):
    r"""Multiply the update by a number: $u \leftarrow \text{step\_size} \cdot u$.

    Args:
        step_size: the factor; may be a schedule.

    State:
        none.
    """

    step_size: Any = number_field()

    ignores_zeros: ClassVar[bool] = True

    @property
    def turns(self) -> bool:
        return isinstance(self.step_size, float) and self.step_size < 0

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return _times(signal, s.step_size)


class scale_by_learning_rate(Leafwise):
    r"""Multiply the update by the negative learning rate: $u \leftarrow -\eta_t u$, so that adding it descends.

    Args:
        learning_rate: $\eta$; a schedule is given the number of completed steps, 0 at first.
        flip_sign: whether to descend (the default) or to ascend.

    State:
        none.
    """

    learning_rate: Any = number_field()
    flip_sign: bool = True

    ignores_zeros: ClassVar[bool] = True

    @property
    def turns(self) -> bool:
        return self.flip_sign

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        factor = -s.learning_rate if self.flip_sign else s.learning_rate
        sense = signal.sense.turned() if self.flip_sign else signal.sense
        return signal.times(factor).replace(sense=sense)


class scale_by_schedule(Leafwise):
    r"""Multiply the update by a schedule of the number of completed steps: $u \leftarrow f(t - 1) u$.

    Args:
        step_size_fn: `count -> factor`.

    State:
        none; the count is the chain's.
    """

    step_size_fn: Any = number_field()

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return _times(signal, s.step_size_fn)


class scale_by_sign(Leafwise):
    r"""Replace the update by its sign: $u \leftarrow u / |u|$, and 0 where it is 0. NaN stays NaN.

    State:
        none.

    Source:
        Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", arXiv:1802.04434, Algorithm 1.
    """

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        return signal.write(jnp.sign(signal.update))


class scale_by_tanh(Leafwise):
    r"""Replace the update by a smooth sign: $u \leftarrow \tanh(\beta u)$.

    Args:
        beta: $\beta$, how steep it is at 0; may be a schedule.

    State:
        none.

    Raises:
        TypeError: a leaf is complex.
    """

    beta: Any = number_field(default=1.0)

    ignores_zeros: ClassVar[bool] = True

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        if jnp.iscomplexobj(signal.update):
            raise TypeError("scale_by_tanh: expected real updates, got complex ones, whose tanh has poles")
        return signal.write(jnp.tanh(s.beta * signal.update))


class identity(Leafwise):
    """Pass the update through.

    State:
        none.
    """

    writes: ClassVar[bool] = False
    ignores_zeros: ClassVar[bool] = True
