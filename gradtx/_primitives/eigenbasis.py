"""The eigenbasis of a matrix gradient's covariances: into it, and back out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.hyperparameters import decay_field
from gradtx._core.order import label
from gradtx._core.signal import Signal, _clamp, _largest_square_root
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.averages import average, towards, weight_slot
from gradtx._primitives.decompositions import anywhere, eigenvectors, orthonormalized
from gradtx._primitives.matrices import adjoint, dimension_numbers, factor_like, largest, placed_like, product
from gradtx._primitives.sides import Sides, sides_of
from gradtx._primitives.weight_decay import mask_leaves

Array = jax.Array
Slots = dict[str, Array]

NAMES = ("left", "right", "third", "fourth", "fifth", "sixth")

# What a step does with the basis, before it uses it.
KEEP, START, DECOMPOSE, ITERATE = range(4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotated(Signal):
    """A signal in another basis, with the way back.

    Attributes:
        bases: for each side `[stack, length, length]`, its basis, as columns; None: its own.
        before: the signal as it came.
        sides: which axes they are.
    """

    bases: tuple[Array | None, ...] = ()
    before: Signal | None = None
    sides: Sides | None = dataclasses.field(default=None, metadata={"static": True})


class to_eigenbasis(Leafwise):
    r"""Express gradient, first moment and update in the eigenbasis of the gradient's Kronecker factors.

    $$L_t = \beta L_{t-1} + (1 - \beta) G_t G_t^H, \quad R_t = \beta R_{t-1} + (1 - \beta) G_t^H G_t, \qquad
    X' = Q_L^H X Q_R$$

    with the eigenvectors $Q_L$ of $L_{t-1}$ and $Q_R$ of $R_{t-1}$, as they were last renewed: **no step uses a basis
    made from its own gradient.** In the first step the basis is the identity; before the second it is the eigenvectors
    of the first gradient's factors; before every step after a multiple of `every` it is renewed by one step of
    orthogonal iteration, $Q \leftarrow \text{QR}(L Q)$, the columns in the order of $\text{diag}(Q^H L Q)$ (each
    result goes back to its column's place, so a second moment estimated per column stays valid). Renewals are in a
    branch, also under `jax.vmap`: other steps do not pay for them. Stages behind this one, up to `from_eigenbasis`, see only the rotated
    gradient. Signs and phases of eigenvectors cancel on the way back. Hypergradients take the basis as constant.

    All matrices of a stack are decomposed in one batched call. Complex matrices have unitary bases. A vector has the one
    factor $g g^H$; an array of more sides (`merge`) has one for each side, of the array as a matrix of that side against
    all others, and is turned by each basis in turn.

    Args:
        beta: the decay $\beta$ in [0, 1); may be a schedule.
        every: the steps between renewals, >= 1.
        max_dim: a side longer than this keeps its own basis, and no state; so does one of length 1.
        numbers: `MuonDimensionNumbers`, which axes are rows and columns; the others are a stack. None: the one axis of a
            vector, the last two of another array.
        mask: which leaves are rotated, as for `add_decayed_weights`; the others pass through. None: those of two axes,
            or all, if `numbers` are given, or those of two or more, if they are merged.
        merge: whether every axis of an array is (part of) a side, instead of a stack: neighbouring axes are joined from
            the first on, as long as their product is at most `max_dim`. Not together with `numbers`.

    State:
        `left`, `left_basis`: `[stack, fan_in, fan_in]`. `right`, `right_basis`: `[stack, fan_out, fan_out]`; with `merge`
        also `third`, ... to `sixth` and their bases. The factors are debiased averages; bases of zeros, as in a fresh
        state, stand for the identity. `weight`: float[3], only if the decay is a schedule.

    Raises:
        ValueError: a leaf does not have the axes of `numbers`, or more than six sides; or an argument is out of range.

    Source:
        Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, Algorithms 3 and 4; `merge` as
        `merge_dims` in https://github.com/nikhilvyas/SOAP.
    """

    beta: Any = decay_field(default=0.95)
    every: int = 10
    max_dim: int = 10_000
    numbers: Any = None
    mask: Any = None
    merge: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", dimension_numbers(self.numbers))
        super().__post_init__()
        if self.merge and self.numbers is not None:
            raise ValueError("to_eigenbasis: expected numbers, which name the sides, or merge=True, which finds them")
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
            axes = [len(np.shape(leaf)) for _, leaf in flat]
            chosen = [self.numbers is not None or n == 2 or (self.merge and n > 2) for n in axes]
        for (path, leaf), mine in zip(flat, chosen, strict=True):
            try:
                count = len(self._sides(np.shape(leaf)).lengths) if mine else 0
                if count > len(NAMES):
                    raise ValueError(f"expected an array of at most {len(NAMES)} sides, got {count}")
            except ValueError as error:
                raise ValueError(f"{label(self)}: leaf {trees.path_name(path)}: {error}") from error
        return chosen

    def _sides(self, shape: tuple[int, ...]) -> Sides:
        return sides_of(shape, self.numbers, self.max_dim if self.merge else None)

    def slots(self) -> tuple[Slot, ...]:
        slots = []
        for i, name in enumerate(NAMES if self.merge else NAMES[:2]):
            shape = functools.partial(_square, self._sides, self.max_dim, i)
            slots += [Slot(name, role="factored", shape=shape), Slot(f"{name}_basis", role="factored", shape=shape)]
        return (*slots, *weight_slot(self.beta))

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        numbers, memory = average(step, self.beta)
        due = jnp.where(step.count % self.every == 0, ITERATE, KEEP)
        renewal = jnp.where(step.count == 0, START, jnp.where(step.count == 1, DECOMPOSE, due))
        return {"rate": numbers["rate"], "renewal": renewal.astype(step.t.dtype)}, memory

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        gradient = signal.capture().captured
        sides = self._sides(gradient.shape)
        x = sides.blocks(gradient)
        # No product of such a matrix with itself overflows, nor is the inverse of one subnormal; only directions count.
        size = largest(x.reshape(sides.stack, 1, -1))
        bound = _largest_square_root(size.dtype) / 4 / math.sqrt(math.prod(sides.lengths))
        x = x * (bound / jnp.maximum(size, bound)).reshape(-1, *(1,) * len(sides.lengths))
        new = {}
        for i, name in enumerate(NAMES):
            if name in slots:
                y = sides.unfolded(x, i)
                new[f"{name}_basis"] = _renewed(s.renewal, slots[name], slots[f"{name}_basis"])
                new[name] = towards(slots[name], product(y, adjoint(y)), s.rate)
        return {name: factor_like(x, slots[name], gradient) for name, x in new.items()}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        signal = signal.capture()
        sides = self._sides(signal.update.shape)
        bases = tuple(slots.get(f"{name}_basis") for name, _ in zip(NAMES, sides.lengths, strict=False))

        def rotated(x: Array) -> Array:
            y = sides.turned(x, bases)
            return _clamp(y, signal.clamp) if signal.clamp else y

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
            bases=bases,
            before=signal,
            sides=sides,
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
            assert signal.sides is not None
            before, update = signal.before, signal.sides.turned(signal.update, signal.bases, back=True)
            signal = before.write(placed_like(update, before.update))
        return signal


def _square(
    sides_of: Callable[[tuple[int, ...]], Sides], max_dim: int, side: int, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The shape of the factor of one side."""
    try:
        sides = sides_of(shape)
    except ValueError:
        return None  # a leaf on which the stage does not act
    if side >= len(sides.lengths) or not 1 < (n := sides.lengths[side]) <= max_dim or not math.prod(shape):
        return None
    return (sides.stack, n, n)


def _renewed(renewal: Array, factor: Array, basis: Array) -> Array:
    """The basis for this step. Its derivative is infinite where eigenvalues are equal, as in a factor of zeros."""
    renewal, factor, basis = jax.lax.stop_gradient((renewal, factor, basis))

    def renewed() -> Array:
        new = basis
        for kind, way in ((START, _identity), (DECOMPOSE, _eigenvectors), (ITERATE, _iterated)):
            new = _where(renewal == kind, functools.partial(way, factor, basis), new)
        return new

    return _where(renewal != KEEP, renewed, basis)


def _where(mine: Array, way: Callable[[], Array], other: Array) -> Array:
    """What a function computes, if that is wanted; in a population for whom it is wanted."""
    return jax.lax.cond(anywhere(mine), lambda: jnp.where(mine, way(), other), lambda: other)


def _identity(factor: Array, basis: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=basis.dtype), basis.shape)


def _eigenvectors(factor: Array, basis: Array) -> Array:
    return eigenvectors(_scaled(factor))


def _iterated(factor: Array, basis: Array) -> Array:
    """One step of orthogonal iteration from the basis so far."""
    power = product(_scaled(factor), basis)
    eigenvalues = jnp.sum((basis.conj() * power).real, axis=-2)
    order = jnp.argsort(eigenvalues, axis=-1, descending=True)
    q = orthonormalized(jnp.take_along_axis(power, order[:, None, :], axis=-1))
    return jnp.take_along_axis(q, jnp.argsort(order, axis=-1)[:, None, :], axis=-1)


def _scaled(factor: Array) -> Array:
    size = largest(factor)
    return factor / jnp.where(size == 0, 1, size)
