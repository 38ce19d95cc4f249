"""Whitening by a Kronecker-factored preconditioner that is learned on the way (PSGD)."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_divide, safe_sqrt, square
from gradtx._core.signal import Signal
from gradtx._core.slots import Slot
from gradtx._core.stages import Leafwise, Step
from gradtx._primitives.decompositions import anywhere, solve_adjoint
from gradtx._primitives.matrices import (
    Layout,
    adjoint,
    dimension_numbers,
    factor_like,
    largest,
    placed_like,
    product,
    transpose,
)

Array = jax.Array
Slots = dict[str, Array]
Factors = tuple[Array | None, Array | None]

MODES = (None, "one_diag", "all_diag")
DAMPING = 2.0**-11.5  # the root of float32's epsilon, in every dtype


class scale_by_kron(Leafwise):
    r"""Multiply each matrix by a preconditioner $P = Q^H Q$, $Q = Q_L \otimes Q_R$, that whitens the gradients.

    $$u \leftarrow Q_L^H Q_L \, u \, Q_R^\top \overline{Q_R}, \qquad
    Q_L \leftarrow Q_L - \mu \frac{\text{triu}(A A^H - B B^H)}{\lVert A A^H + B B^H \rVert} Q_L$$

    and likewise $Q_R$ with $A^\top \overline A$ and $B^\top \overline B$, where $A = Q_L G Q_R^\top$, $B = Q_L^{-H} V
    \overline{Q_R}^{-1}$, and $G$ is the update or the gradient, plus $V$ times $2^{-11.5}$ of its mean size. The factors
    are upper triangular, or diagonal. $V$ is a probe of random signs (the paper's is normal; both have the identity as
    covariance). It follows from seed, step and shape alone, so results are the same on every layout of the devices,
    whatever other parameters there are, and for a stack and its matrices one by one. The norm is the author's lower
    bound of the spectral norm.

    **Nothing random decides when:** the factors are updated as soon as the steps since the last time, times the
    probability of this step, reach one. Other steps do not pay for it. A gradient of zero, which has nothing to
    say but would make $Q$ grow by $1 + \mu$, leaves them alone. $A$ and $B$ are divided by one common scale, so
    neither overflows in a product. After an update both factors have the same largest element; that changes no $P$.

    A parameter of two axes is a matrix; one of other numbers of axes is taken as one vector, whose factor is diagonal,
    unless `numbers` say otherwise. A side of length 1 has no factor.

    Args:
        update_probability: the share of steps that update the factors, in [0, 1]; may be a schedule.
        max_size_triangular: a side longer than this has a diagonal factor.
        min_ndim_triangular: arrays of fewer axes have diagonal factors; 1 allows full ones for vectors.
        memory_save_mode: `"one_diag"`: the longer side of a matrix has a diagonal factor; `"all_diag"`: both.
        momentum_into_precond_update: whether the factors learn from what flows in, or from the gradient.
        precond_lr: $\mu$, in (0, 1); may be a schedule.
        precond_init_scale: the first $Q$ is this times the identity, > 0.
        seed: of the probes.
        numbers: `MuonDimensionNumbers`, which axes are rows and columns of every leaf; the others are a stack.
        vectors: whether to take every leaf as one vector, also those of two axes.

    State:
        `left`: `[stack, fan_in, fan_in]`, or `[stack, fan_in]` if diagonal. `right`: the same with `fan_out`. Zeros, as
        in a fresh state, stand for the first $Q$. `waited`: int32, the steps since the last update of the factors.

    Raises:
        ValueError: a leaf does not have the axes of `numbers`, or an argument is out of range.

    Source:
        Li, "Preconditioned Stochastic Gradient Descent", arXiv:1512.04202, section IV; Li, "Stochastic Hessian
        Fittings with Lie Groups", arXiv:2402.11858; names and choices of `kron` in
        https://github.com/evanatyourservice/psgd_jax.
    """

    update_probability: Any = number_field(default=1.0, minimum=0.0)
    max_size_triangular: int = 8192
    min_ndim_triangular: int = 2
    memory_save_mode: str | None = None
    momentum_into_precond_update: bool = True
    precond_lr: Any = number_field(default=0.1, minimum=0.0)
    precond_init_scale: Any = number_field(default=1.0, minimum=0.0)
    seed: int = 0
    numbers: Any = None
    vectors: bool = False

    squares: ClassVar[bool] = True
    randomized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", dimension_numbers(self.numbers))
        super().__post_init__()
        if self.memory_save_mode not in MODES:
            raise ValueError(
                f"scale_by_kron(memory_save_mode=...): expected one of {', '.join(map(repr, MODES))}, "
                f"got {self.memory_save_mode!r}"
            )
        for name in ("max_size_triangular", "min_ndim_triangular"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"scale_by_kron({name}=...): expected an integer >= 0, got {value!r}")

    def check_place(self, before: dict[str, Any]) -> None:
        before.setdefault("captured", self)

    def slots(self) -> tuple[Slot, ...]:
        how = (self.numbers, self.vectors, self.max_size_triangular, self.min_ndim_triangular, self.memory_save_mode)
        left, right = (functools.partial(_factor_shape, how, side) for side in (0, 1))
        return (
            Slot("left", role="factored", shape=left),
            Slot("right", role="factored", shape=right),
            Slot("waited", role="scalar", dtype=np.dtype(np.int32)),
        )

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        waited = step.memory["waited"] + 1
        # A share of 1/n is met after n steps, whatever way it was rounded.
        due = waited.astype(step.t.dtype) * step.value(self.update_probability) >= 1 - 2.0**-20
        start = step.count == 0
        numbers = {"due": due.astype(step.t.dtype), "start": start.astype(step.t.dtype)}
        return numbers, {"waited": jnp.where(due, 0, waited)}

    def accumulate(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Slots:
        signal = signal.capture()
        x = self._matrices(signal.update if self.momentum_into_precond_update else signal.captured)
        first = s.precond_init_scale ** (1 / len(slots))
        old = {name: jnp.where(s.start > 0, first * _identity(q), q) for name, q in slots.items()}
        key = jax.random.fold_in(jax.random.key(self.seed), s.count)

        due = s.due > 0

        def learn(old: Slots) -> Slots:
            probe = jax.random.rademacher(key, (1, *x.shape[1:]), np.int8).astype(x.dtype)
            new = _learned(old, x, jnp.broadcast_to(probe, x.shape), s.precond_lr)
            return {name: jnp.where(due, new[name], q) for name, q in old.items()}

        new = jax.lax.cond(anywhere(due), learn, lambda old: old, old)
        return {name: factor_like(q, slots[name], signal.update) for name, q in new.items()}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        signal = signal.capture()
        if not slots:
            return signal
        x = self._matrices(signal.update)
        left, right = slots.get("left"), slots.get("right")
        y = _times(left, x, right)
        y = _times(_adjoint_of(left), y, _adjoint_of(right))
        return signal.write(placed_like(self._array(y, signal.update.shape), signal.update))

    def _matrices(self, x: Array) -> Array:
        layout = _layout(self.numbers, self.vectors, x.shape)
        return x.reshape(1, 1, -1) if layout is None else layout.matrices(x).reshape(-1, *layout.shape[-2:])

    def _array(self, x: Array, shape: tuple[int, ...]) -> Array:
        layout = _layout(self.numbers, self.vectors, shape)
        return x.reshape(shape) if layout is None else layout.array(x.reshape(layout.shape))


def _layout(numbers: Any, vectors: bool, shape: tuple[int, ...]) -> Layout | None:
    """How a leaf is a stack of matrices; None: it is a vector."""
    if numbers is None and (vectors or len(shape) != 2):
        return None
    return Layout(shape, numbers)


def _factor_shape(how: Any, side: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    numbers, vectors, max_size, min_ndim, mode = how
    try:
        layout = _layout(numbers, vectors, shape)
    except ValueError:
        return None  # a leaf of another group
    size = math.prod(shape)
    *stack, rows, columns = (1, size) if layout is None else layout.shape
    n, other = (rows, columns) if side == 0 else (columns, rows)
    if not size or (n == 1 and (side == 0 or other > 1)):
        return None
    longer = n > other or (n == other and side == 1)
    ndim = min(len(shape), 1) if layout is None else len(shape)
    diagonal = n == 1 or n > max_size or ndim < min_ndim or mode == "all_diag" or (mode == "one_diag" and longer)
    return (math.prod(stack), n) if diagonal else (math.prod(stack), n, n)


def _identity(q: Array) -> Array:
    one = jnp.ones(q.shape, q.dtype)
    return one if q.ndim == 2 else jnp.broadcast_to(jnp.eye(q.shape[-1], dtype=q.dtype), q.shape)


def _times(left: Array | None, x: Array, right: Array | None) -> Array:
    r"""`left @ x @ right.T`; a factor of two axes is a diagonal."""
    if left is not None:
        x = left[:, :, None] * x if left.ndim == 2 else product(left, x)
    if right is not None:
        x = x * right[:, None, :] if right.ndim == 2 else product(x, transpose(right))
    return x


def _adjoint_of(q: Array | None) -> Array | None:
    return q if q is None else q.conj() if q.ndim == 2 else adjoint(q)


def _solved(q: Array | None, x: Array) -> Array:
    """`q^-H @ x`."""
    if q is None:
        return x
    if q.ndim == 2:
        return x / q.conj()[:, :, None]
    return solve_adjoint(q, x)


def _learned(old: Slots, x: Array, probe: Array, rate: Array) -> Slots:
    """The factors after one update, for a stack of matrices."""
    left, right = old.get("left"), old.get("right")
    damped = x + DAMPING * jnp.mean(jnp.abs(x), axis=(-2, -1), keepdims=True) * probe
    a = _times(left, damped, right)
    b = transpose(_solved(right, transpose(_solved(left, probe))))
    unit = jnp.maximum(largest(a), largest(b))
    a, b = safe_divide(a, unit), safe_divide(b, unit)
    new = {}
    for name, y, z in (("left", a, b), ("right", transpose(a), transpose(b))):
        if name in old:
            new[name] = _stepped(old[name], y, z, rate)
    if len(new) == 2:
        sizes = [jnp.max(jnp.abs(q.reshape(len(q), -1)), axis=1) for q in new.values()]
        ratio = safe_sqrt(safe_divide(sizes[1], sizes[0]))
        for name, factor in (("left", ratio), ("right", 1 / ratio)):
            new[name] = new[name] * factor.reshape(-1, *(1,) * (new[name].ndim - 1))
    silent = (largest(x) == 0).reshape(-1)
    return {name: jnp.where(silent.reshape(-1, *(1,) * (q.ndim - 1)), old[name], q) for name, q in new.items()}


def _stepped(q: Array, a: Array, b: Array, rate: Array) -> Array:
    if q.ndim == 2:
        gain, loss = jnp.sum(square(a), axis=-1), jnp.sum(square(b), axis=-1)
        return q - rate * safe_divide(gain - loss, jnp.max(gain + loss, axis=-1, keepdims=True)) * q
    gain, loss = product(a, adjoint(a)), product(b, adjoint(b))
    norm = _norm_lower_bound(gain + loss)
    return q - product(jnp.triu(rate * safe_divide(gain - loss, norm)), q)


def _norm_lower_bound(x: Array) -> Array:
    """Of the spectral norm of Hermitian matrices: two steps of power iteration from the largest column; `[..., 1, 1]`."""
    size = largest(x)
    x = safe_divide(x, size)
    first = jnp.argmax(jnp.sum(square(x), axis=-2), axis=-1)
    y = product(x, jnp.take_along_axis(x, first[:, None, None], axis=-1))
    y = product(x, safe_divide(y, _norm(y)))
    return size * _norm(y)


def _norm(y: Array) -> Array:
    return safe_sqrt(jnp.sum(square(y), axis=(-2, -1), keepdims=True))
