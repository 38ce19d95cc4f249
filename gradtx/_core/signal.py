"""What flows through a chain for one parameter: the update, and what the stages before have learned of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.limits import at_least, at_most
from gradtx._core.moments import FirstMoment, SecondMoment
from gradtx._core.safe import square, zero_of

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sense:
    """How often, and by which numbers, an update was turned.

    Attributes:
        opposed: whether by a learning rate.
        sign: scalar, the sign of all other factors, or None for 1.
    """

    opposed: bool = dataclasses.field(default=False, metadata={"static": True})
    sign: Array | None = None

    def turned(self) -> Sense:
        """The same behind a learning rate."""
        return Sense(not self.opposed, self.sign)

    def times(self, other: Sense) -> Sense:
        """One turn behind another; also the turn from one to the other."""
        sign = other.sign if self.sign is None else self.sign
        if self.sign is not None and other.sign is not None:
            sign = self.sign * other.sign
        return Sense(self.opposed != other.opposed, sign)

    def of(self, x: Array) -> Array:
        """`x`, turned back."""
        x = -x if self.opposed else x
        return x if self.sign is None else x * self.sign


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signal:
    """The record that stages read and write, for one parameter.

    Attributes:
        update: what would be applied if the chain ended here. Stages change only this, through `write`.
        gradient: what the first estimator saw; unset (None) before it.
        param: the parameter in the dtype of the arithmetic, or None if the caller gave none.
        first: the first moment, once estimated in this scope.
        second: the second moment, once estimated in this scope.
        outer: the signal around the current scope.
        fresh: whether `update` still is `first.raw`.
        clamp: what this scope does with its gradient, which then must not overflow: `"squares"`, `"sums"` or nothing.
        sense: how stages have turned the update since it came into this scope.
        captured_as: the sense of what was captured as the gradient.
        marks: updates of earlier in this scope, by the name under which a stage put them here for one that follows.
        whole: the gradient before its clamp, or None where there was none or it is complex.
        product: an array and a scalar whose product `update` is, where a scaling wrote it last.
    """

    update: Array
    gradient: Array | None = None
    param: Array | None = None
    first: FirstMoment | None = None
    second: SecondMoment | None = None
    outer: Signal | None = None
    fresh: bool = dataclasses.field(default=False, metadata={"static": True})
    clamp: str = dataclasses.field(default="", metadata={"static": True})
    sense: Sense = Sense()
    captured_as: Sense = Sense()
    marks: dict[str, Array] = dataclasses.field(default_factory=dict)
    whole: Array | None = None
    product: tuple[Array, Array] | None = None

    def write(self, update: Array) -> Signal:
        """The signal with another update."""
        return dataclasses.replace(self, update=update, fresh=False, product=None)

    def times(self, factor: Array) -> Signal:
        """The signal with its update times a scalar."""
        return dataclasses.replace(self.write(self.update * factor), product=(self.update, factor))

    def replace(self, **changes: Any) -> Signal:
        """The signal with other fields. A new gradient is the whole of it, unless that is given too, and a new update no product."""
        if "gradient" in changes:
            changes.setdefault("whole", None)
        if "update" in changes:
            changes.setdefault("product", None)
        return dataclasses.replace(self, **changes)

    @property
    def opposed(self) -> bool:
        """Whether a learning rate has turned the update since it came into this scope."""
        return self.sense.opposed

    @property
    def captured(self) -> Array:
        """The gradient, where an estimator runs: it is set there."""
        assert self.gradient is not None
        return self.gradient

    @property
    def unclamped(self) -> Array:
        """The gradient before its clamp. To limit what is made of its square is cheaper than to limit it itself."""
        return self.captured if self.whole is None else self.whole

    @property
    def captured_again(self) -> Array:
        """The captured gradient, for a second reader of it that XLA:CPU should not make it write the clamped one for."""
        return self.captured if self.whole is None else _clamp(self.whole, self.clamp, slack=2)

    @property
    def squares(self) -> Array:
        """`|g|**2` of the gradient, at most the largest number; NaN where it is not finite, which must not be hidden."""
        gradient = self.unclamped
        squares = square(gradient)
        return at_most(squares, jnp.finfo(squares.dtype).max) + zero_of(gradient)

    def capture(self) -> Signal:
        """The signal with its gradient set: the update as it is now, unless an earlier stage captured it.

        Where the scope squares its gradient, both are clamped to what can be squared: an update that the clamped
        moments divide must be of their size. Where only its direction counts, to what can be added up.
        """
        if self.gradient is not None:
            return self
        gradient, update, whole = self.update, self.update, None
        if self.clamp:
            # Not the same array twice: a moment reads the one, and what is divided by it later is the other. XLA:CPU
            # would keep a selection in memory, from where such a pair of users reads it: for centered RMSProp a pass more.
            gradient, update = _clamp(self.update, self.clamp), _clamp(self.update, self.clamp, slack=1)
            # A complex gradient is clamped part by part, by a root of 2 more where one part is the larger.
            whole = None if jnp.iscomplexobj(self.update) else self.update
        return self.replace(gradient=gradient, update=update, captured_as=self.sense, whole=whole)


def _clamp(x: Array, use: str, *, slack: int = 0) -> Array:
    """Limit |x| to what can be squared, or to a quarter of the largest number, whose differences and averages are finite.

    Infinities and NaN stay: a failure must not be hidden. `slack`: how many ULP less, which is another expression to XLA.
    """
    real = x.real.dtype
    limit = _largest_square_root(real) if use == "squares" else float(jnp.finfo(real).max) / 4
    for _ in range(slack):
        limit = np.nextafter(np.asarray(limit, real), np.zeros((), real))
    if jnp.iscomplexobj(x):
        limit = limit / 2**0.5
        return jax.lax.complex(_clip_finite(x.real, limit), _clip_finite(x.imag, limit))
    return _clip_finite(x, limit)


def _clip_finite(x: Array, limit: Any) -> Array:
    return jnp.where(jnp.isfinite(x), at_most(at_least(x, -limit), limit), x)


def _largest_square_root(dtype: Any) -> float:
    root = np.sqrt(jnp.finfo(dtype).max, dtype=dtype)
    return float(np.nextafter(root, np.zeros_like(root)))
