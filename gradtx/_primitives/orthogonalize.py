"""Orthogonalization: the nearest semi-orthogonal matrix, by Newton and Schulz's iteration; and Muon's scales."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.dtypes import promote
from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_divide, safe_sqrt, square
from gradtx._core.signal import Signal
from gradtx._core.slots import slot_storage
from gradtx._core.stages import Leafwise, Stage
from gradtx._primitives.decompositions import eigenvectors
from gradtx._primitives.matrices import AxesOf, Layout, adjoint, axes_field, largest, product

Array = jax.Array

PRESETS: dict[str, Any] = {
    # Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    "standard": (3.4445, -4.7750, 2.0315),
    # Ahn et al., "Dion: Distributed Orthonormalized Updates", arXiv:2504.05295: five steps that differ.
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


class OnMatrices(Leafwise):
    """A stage that sees leaves as stacks of matrices, with a field `numbers`: which of their axes are rows and columns."""

    def at_leaves(self, params: Any) -> list[Stage] | None:
        numbers = getattr(self, "numbers", None)
        if not isinstance(numbers, AxesOf):
            return None
        return [self._with_static(numbers=axes) for axes in numbers(params)]


class orthogonalize(OnMatrices):
    r"""Replace each matrix of the update by (nearly) the semi-orthogonal matrix nearest to it.

    For $U \Sigma V^\top$ the singular value decomposition of the update that is $U V^\top$, or $U S V^\top$ with $S$
    between about 0.7 and 1.2 for the standard coefficients $(a, b, c)$, which trade accuracy for speed:

    $$X_0 = \frac{u}{\lVert u \rVert_F + \epsilon}, \qquad X_{k+1} = a X_k + b (X_k X_k^H) X_k + c (X_k X_k^H)^2 X_k$$

    All matrices of a stack are computed in one batched product. A zero matrix stays zero.

    Args:
        ns_coeffs: $(a, b, c)$, or one such triple a step, or `"standard"` or `"dion"`.
        ns_steps: the number of steps, >= 1; of no account where each step has its own coefficients.
        eps: $\epsilon \ge 0$.
        preconditioning: how $X_0$ is made: `"frobenius"`; `"spectral"`, by the largest singular value; `"schatten"`,
            by $\max(\lVert u u^H \rVert_F, \epsilon)^{1/2}$; `"aol"`, each row $i$ (of the shorter side) by
            $\max(\sum_j |u u^H|_{ij}, \epsilon)^{1/2}$.
        numbers: `MuonDimensionNumbers`, which axes are rows and columns; the others are a stack. None: the last two. Or a
            function from all parameters to a tree of these.
        dtype: the dtype of the iteration. None is that of the arithmetic, whose products a GPU may round to TensorFloat-32
            and a TPU to 16 bits: on an H100 1.3e-3 of an update whose singular values the coefficients leave between 0.7
            and 1.2. `"float32"` takes full products, several times slower there; `"bfloat16"` is faster still, and has an
            error of a few percent. It narrows a float64 iteration too; of complex matrices it is the dtype of the parts,
            at least float32.

    State:
        none.

    Raises:
        ValueError: a leaf does not have the axes of `numbers`, or an argument is out of range.

    Source:
        Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon; `"schatten"`: Grishina et al.,
        arXiv:2506.10935; `"aol"`: Boissin et al., arXiv:2512.04632.
    """

    ns_coeffs: Any = "standard"
    ns_steps: int = 5
    eps: Any = number_field(default=1e-8, minimum=0.0)
    preconditioning: str = "frobenius"
    numbers: Any = None
    dtype: Any = None

    directs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ns_coeffs", _coefficients(self.ns_coeffs))
        object.__setattr__(self, "numbers", axes_field(self.numbers))
        super().__post_init__()
        object.__setattr__(self, "dtype", slot_storage(self.dtype, self, "dtype"))
        if not isinstance(self.ns_steps, int) or isinstance(self.ns_steps, bool) or self.ns_steps < 1:
            raise ValueError(f"orthogonalize(ns_steps=...): expected an integer >= 1, got {self.ns_steps!r}")
        if self.preconditioning not in PRECONDITIONINGS:
            raise ValueError(
                f"orthogonalize(preconditioning=...): expected one of {', '.join(PRECONDITIONINGS)}, "
                f"got {self.preconditioning!r}"
            )

    def emit(self, s: SimpleNamespace, slots: Any, signal: Signal) -> Signal:
        layout = Layout(signal.update.shape, self.numbers)
        if not signal.update.size:
            return signal
        x = layout.matrices(signal.update)
        tall = layout.fan_in > layout.fan_out
        x = _unit(jnp.swapaxes(x, -1, -2) if tall else x, self.preconditioning, s.eps)
        full = x.dtype
        x = self._iterate(x if self.dtype is None else x.astype(_of_kind(self.dtype, full))).astype(full)
        return signal.write(layout.array(jnp.swapaxes(x, -1, -2) if tall else x))

    def _iterate(self, x: Array) -> Array:
        given = PRESETS[self.ns_coeffs] if isinstance(self.ns_coeffs, str) else self.ns_coeffs
        full = self.dtype is not None
        # Rows are the shorter side, so the products are as small as they can be.
        for a, b, c in given if isinstance(given[0], tuple) else (given,) * self.ns_steps:
            gram = product(x, adjoint(x), full=full)
            x = a * x + product(b * gram + c * product(gram, gram, full=full), x, full=full)
        return x


def _of_kind(dtype: np.dtype, like: np.dtype) -> np.dtype:
    """A dtype as complex as another: the one whose parts have it, and the narrowest there is if none is that narrow."""
    return promote(dtype, np.dtype(np.complex64)) if jnp.issubdtype(like, jnp.complexfloating) else dtype


def _coefficients(given: Any) -> Any:
    if isinstance(given, str) and given in PRESETS:
        return given
    try:
        rows = tuple(tuple(map(float, row)) for row in (given if hasattr(given[0], "__len__") else (given,)))
    except (TypeError, ValueError, IndexError, KeyError):
        rows = ()
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError(
            f"orthogonalize(ns_coeffs=...): expected three numbers, a sequence of such triples, or one of "
            f"{', '.join(map(repr, PRESETS))}; got {given!r}"
        )
    return rows if hasattr(given[0], "__len__") else rows[0]


def _unit(x: Array, preconditioning: str, eps: Array) -> Array:
    """The start of the iteration. Divided by its largest element first, no matrix overflows or underflows in its norm."""
    size = largest(x)
    # The inverse of a size beyond 2**126, by which XLA multiplies, is a subnormal that is taken as 0.
    shrink = jnp.where(size > 1, jnp.asarray(2.0**-8, size.dtype), 1)
    y = safe_divide(x * shrink, size * shrink)
    # A size that is 0 (or a subnormal that is taken as 0) leaves nothing to orthogonalize, unless eps is 0 as well.
    size = jnp.where(size == 0, jnp.finfo(size.dtype).tiny, size)
    if preconditioning in ("frobenius", "spectral"):
        if preconditioning == "frobenius":
            norm = safe_sqrt(jnp.sum(square(y), axis=(-2, -1), keepdims=True))
        else:
            norm = _largest_singular_value(y)
        return safe_divide(y, norm + eps / size)
    gram = product(y, adjoint(y))
    if preconditioning == "schatten":
        whole = safe_sqrt(jnp.sum(square(gram), axis=(-2, -1), keepdims=True))
    else:
        whole = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
    return safe_divide(y, safe_sqrt(jnp.maximum(whole, eps / size / size)))


def _largest_singular_value(x: Array) -> Array:
    """Of matrices with no more rows than columns, `[..., 1, 1]`: the length of the first left singular vector's image.

    With that vector taken as constant its derivative is the right one; that of a vector need not exist.
    """
    gram = jax.lax.stop_gradient(product(x, adjoint(x)))
    first = eigenvectors(gram.reshape(-1, *gram.shape[-2:]))[..., :1].reshape(*gram.shape[:-1], 1)
    return safe_sqrt(jnp.sum(square(product(adjoint(first), x)), axis=(-2, -1), keepdims=True))


class scale_by_dual_norm(OnMatrices):
    r"""Scale each matrix of the update by its product with the momentum: $u \leftarrow \langle \hat m, u \rangle u$.

    Behind `orthogonalize` that product is the momentum's nuclear norm, the dual of the spectral norm, so the step is
    that of steepest descent under the spectral norm, whose length falls with the gradient's.

    Args:
        numbers: as for `orthogonalize`.

    State:
        none.

    Raises:
        ValueError: no first moment was estimated before it in its scope.

    Source:
        Bernstein & Newhouse, "Old Optimizer, New Norm: An Anthology", arXiv:2409.20325, Proposition 5.
    """

    numbers: Any = None

    requires: ClassVar[tuple[str, ...]] = ("first",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", axes_field(self.numbers))
        super().__post_init__()

    def emit(self, s: SimpleNamespace, slots: Any, signal: Signal) -> Signal:
        assert signal.first is not None
        layout = Layout(signal.update.shape, self.numbers)
        momentum = signal.first.raw if signal.first.corrected is None else signal.first.corrected
        u, m = layout.matrices(signal.update), layout.matrices(momentum)
        dual = jnp.sum((m.conj() * u).real, axis=(-2, -1), keepdims=True)
        return signal.write(layout.array(dual * u))


class scale_by_shape(OnMatrices):
    r"""Scale the update by a factor of the matrices' shape.

    $$u \leftarrow \sqrt{\max(1, \text{fan}_\text{out} / \text{fan}_\text{in})} \; u \qquad \text{or} \qquad
    u \leftarrow \text{consistent\_rms} \sqrt{\max(\text{fan}_\text{in}, \text{fan}_\text{out})} \; u$$

    The first bounds the change of the layer's output, whatever its width. The second gives orthogonalized updates of
    every shape the same root mean square; 0.2 is about AdamW's.

    Args:
        consistent_rms: the factor of the second form, >= 0; None chooses the first.
        numbers: as for `orthogonalize`; rows are the fan-in, columns the fan-out.

    State:
        none.

    Source:
        Jordan et al., "Muon" (2024); the second: Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982,
        section 2.2.
    """

    consistent_rms: Any = number_field(default=None, minimum=0.0, optional=True)
    numbers: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", axes_field(self.numbers))
        super().__post_init__()

    def emit(self, s: SimpleNamespace, slots: Any, signal: Signal) -> Signal:
        layout = Layout(signal.update.shape, self.numbers)
        if not signal.update.size:
            return signal
        if not hasattr(s, "consistent_rms"):
            return signal.write(max(1.0, layout.fan_out / layout.fan_in) ** 0.5 * signal.update)
        return signal.write(max(layout.fan_in, layout.fan_out) ** 0.5 * s.consistent_rms * signal.update)
