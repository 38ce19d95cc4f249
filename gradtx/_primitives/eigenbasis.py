"""The eigenbasis of a matrix gradient's covariances: into it, and back out."""

from __future__ import annotations

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.hyperparameters import decay_field
from gradtx._core.plan import label
from gradtx._core.signal import Signal, _clamp, _largest_square_root
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot
from gradtx._primitives.matrices import (
    Layout,
    MuonDimensionNumbers,
    adjoint,
    dimension_numbers,
    largest,
    placed_like,
    product,
)
from gradtx._primitives.weight_decay import mask_leaves

Array = jax.Array
Slots = dict[str, Array]

# What a step does with the basis, before it uses it.
KEEP, START, DECOMPOSE, ITERATE = range(4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotated(Signal):
    """A signal in another basis, with the way back.

    Attributes:
        left: `[stack, fan_in, fan_in]`, the basis of the rows, as columns; None: theirs.
        right: `[stack, fan_out, fan_out]`, the basis of the columns; None: theirs.
        before: the signal as it came.
        numbers: which axes are rows and columns.
    """

    left: Array | None = None
    right: Array | None = None
    before: Signal | None = None
    numbers: MuonDimensionNumbers | None = dataclasses.field(default=None, metadata={"static": True})

    def back(self, x: Array) -> Array:
        """An array of this basis in the parameter's own."""
        layout = Layout(x.shape, self.numbers)
        return _between(layout, x, self.left, None if self.right is None else adjoint(self.right))


class to_eigenbasis(Leafwise):
    r"""Express gradient, first moment and update in the eigenbasis of the gradient's Kronecker factors.

    $$L_t = \beta L_{t-1} + (1 - \beta) G_t G_t^H, \quad R_t = \beta R_{t-1} + (1 - \beta) G_t^H G_t, \qquad
    X' = Q_L^H X Q_R$$

    with the eigenvectors $Q_L$ of $L_{t-1}$ and $Q_R$ of $R_{t-1}$, as they were last renewed: **no step uses a basis
    made from its own gradient.** In the first step the basis is the identity; before the second it is the eigenvectors
    of the first gradient's factors; before every step after a multiple of `every` it is renewed by one step of
    orthogonal iteration, $Q \leftarrow \text{QR}(L Q)$, the columns in the order of $\text{diag}(Q^H L Q)$ (each
    result goes back to its column's place, so a second moment estimated per column stays valid). Renewals are in a
    branch: other steps do not pay for them. Stages behind this one, up to `from_eigenbasis`, see only the rotated
    gradient. Signs and phases of eigenvectors cancel on the way back. Hypergradients take the basis as constant.

    All matrices of a stack are decomposed in one batched call. Complex matrices have unitary bases.

    Args:
        beta: the decay $\beta$ in [0, 1); may be a schedule.
        every: the steps between renewals, >= 1.
        max_dim: a side longer than this keeps its own basis, and no state; so does one of length 1.
        numbers: `MuonDimensionNumbers`, which axes are rows and columns; the others are a stack. None: the last two.
        mask: which leaves are rotated, as for `add_decayed_weights`; the others pass through. None: those of two axes,
            or all, if `numbers` are given.

    State:
        `left`, `left_basis`: `[stack, fan_in, fan_in]`. `right`, `right_basis`: `[stack, fan_out, fan_out]`. The factors
        are debiased averages; bases of zeros, as in a fresh state, stand for the identity. `weight`: float[3], only if
        the decay is a schedule.

    Raises:
        ValueError: a leaf does not have the axes of `numbers`, or an argument is out of range.

    Source:
        Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, Algorithms 3 and 4.
    """

    beta: Any = decay_field(default=0.95)
    every: int = 10
    max_dim: int = 10_000
    numbers: Any = None
    mask: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", dimension_numbers(self.numbers))
        super().__post_init__()
        for name, least in (("every", 1), ("max_dim", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"to_eigenbasis({name}=...): expected an integer >= {least}, got {value!r}")

    def check_place(self, before: dict[str, Any]) -> None:
        before["rotated"] = self
        before.setdefault("captured", self)

    def applies(self, params: Any) -> list[bool]:
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        if self.mask is not None:
            chosen = mask_leaves(self.mask, params, label(self))
        else:
            chosen = [self.numbers is not None or len(np.shape(leaf)) == 2 for _, leaf in flat]
        for (path, leaf), mine in zip(flat, chosen, strict=True):
            try:
                Layout(np.shape(leaf), self.numbers) if mine else None
            except ValueError as error:
                raise ValueError(f"{label(self)}: leaf {trees.path_name(path)}: {error}") from error
        return chosen

    def slots(self) -> tuple[Slot, ...]:
        left, right = (functools.partial(_square, self.numbers, self.max_dim, side) for side in (-2, -1))
        return (
            Slot("left", role="factored", shape=left),
            Slot("left_basis", role="factored", shape=left),
            Slot("right", role="factored", shape=right),
            Slot("right_basis", role="factored", shape=right),
            *weight_slot(self.beta),
        )

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.beta)
        due = jnp.where(step.count % self.every == 0, ITERATE, KEEP)
        renewal = jnp.where(step.count == 0, START, jnp.where(step.count == 1, DECOMPOSE, due))
        return {"rate": numbers["rate"], "renewal": renewal.astype(step.t.dtype)}, memory

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        gradient = signal.capture().captured
        layout = Layout(gradient.shape, self.numbers)
        x = layout.matrices(gradient).reshape(-1, layout.fan_in, layout.fan_out)
        # No product of such a matrix with itself overflows, nor is the inverse of one subnormal; only directions count.
        bound = _largest_square_root(largest(x).dtype) / 4 / math.sqrt(layout.fan_in * layout.fan_out)
        x = x * (bound / jnp.maximum(largest(x), bound))
        new = {}
        for side, y in (("left", x), ("right", adjoint(x))):
            if side in slots:
                new[f"{side}_basis"] = _renewed(s.renewal, slots[side], slots[f"{side}_basis"])
                new[side] = towards(slots[side], product(y, adjoint(y)), s.rate)
        return {name: placed_like(x, slots[name]) for name, x in new.items()}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        signal = signal.capture()
        left, right = slots.get("left_basis"), slots.get("right_basis")
        layout = Layout(signal.update.shape, self.numbers)

        def rotated(x: Array) -> Array:
            y = _between(layout, x, None if left is None else adjoint(left), right)
            return _clamp(y) if signal.clamp else y

        gradient, first = rotated(signal.captured), signal.first
        if signal.update is signal.gradient:
            update = gradient
        elif first is not None and first.corrected is not None and signal.fresh:
            update = rotated(first.corrected) * first.weight
        else:
            update = rotated(signal.update)
        if first is not None:
            corrected = None if first.corrected is None else rotated(first.corrected)
            raw = rotated(first.raw) if corrected is None else corrected * first.weight
            first = dataclasses.replace(first, raw=raw, corrected=corrected, input=gradient)
        return Rotated(
            update=update,
            gradient=gradient,
            param=signal.param,
            first=first,
            outer=signal.outer,
            fresh=signal.fresh,
            clamp=signal.clamp,
            left=left,
            right=right,
            before=signal,
            numbers=self.numbers,
        )


class from_eigenbasis(Leafwise):
    r"""Take the update back from the basis that `to_eigenbasis` put it in: $u \leftarrow Q_L u' Q_R^H$.

    What the stages between estimated in that basis ends here; gradient and first moment are again what they were.

    State:
        none.

    Raises:
        ValueError: no `to_eigenbasis` stands before it in its scope.

    Source:
        Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, Algorithm 3, line 8.
    """

    def check_place(self, before: dict[str, Any]) -> None:
        if before.pop("rotated", None) is None:
            raise ValueError("from_eigenbasis needs a to_eigenbasis before it in its scope, and there is none")

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        while isinstance(signal, Rotated):
            assert signal.before is not None
            before = signal.before
            signal = before.write(placed_like(signal.back(signal.update), before.update))
        return signal


def _square(numbers: Any, max_dim: int, side: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a factor of one side: -2 the rows', -1 the columns'."""
    try:
        *stack, rows, columns = Layout(shape, numbers).shape
    except ValueError:
        return None  # a leaf on which the stage does not act
    n = (rows, columns)[side]
    return (math.prod(stack), n, n) if 1 < n <= max_dim and math.prod(shape) else None


def _between(layout: Layout, x: Array, left: Array | None, right: Array | None) -> Array:
    """`left @ x @ right` for each matrix of an array."""
    if left is None and right is None:
        return x
    y = layout.matrices(x).reshape(-1, layout.fan_in, layout.fan_out)
    y = y if left is None else product(left, y)
    y = y if right is None else product(y, right)
    return layout.array(y.reshape(layout.shape))


def _renewed(renewal: Array, factor: Array, basis: Array) -> Array:
    """The basis for this step. Its derivative is infinite where eigenvalues are equal, as in a factor of zeros."""
    branches = [lambda f, q: q, _identity, _eigenvectors, _iterated]
    return jax.lax.switch(
        renewal.astype(jnp.int32), branches, jax.lax.stop_gradient(factor), jax.lax.stop_gradient(basis)
    )


def _identity(factor: Array, basis: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=basis.dtype), basis.shape)


def _eigenvectors(factor: Array, basis: Array) -> Array:
    """In the order of falling eigenvalues."""
    return jnp.flip(jnp.linalg.eigh(_scaled(factor))[1], -1)


def _iterated(factor: Array, basis: Array) -> Array:
    """One step of orthogonal iteration from the basis so far."""
    power = product(_scaled(factor), basis)
    eigenvalues = jnp.sum((basis.conj() * power).real, axis=-2)
    order = jnp.argsort(eigenvalues, axis=-1, descending=True)
    q = jnp.linalg.qr(jnp.take_along_axis(power, order[:, None, :], axis=-1))[0]
    return jnp.take_along_axis(q, jnp.argsort(order, axis=-1)[:, None, :], axis=-1)


def _scaled(factor: Array) -> Array:
    size = largest(factor)
    return factor / jnp.where(size == 0, 1, size)
