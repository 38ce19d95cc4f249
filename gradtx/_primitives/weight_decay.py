"""Weight decay: L2 regularization in the gradient, and decay decoupled from it."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import trees
from gradtx._core.hyperparameters import number_field
from gradtx._core.order import label
from gradtx._core.signal import Signal
from gradtx._core.spec import StaticTree
from gradtx._core.stages import Leafwise


class add_decayed_weights(Leafwise):
    r"""Add the parameter, times a factor, to the update: $u \leftarrow u + \lambda p$.

    In front of the estimators this is L2 regularization: the gradient of $\frac{\lambda}{2} \lVert p \rVert^2$ enters the
    moments. Behind them it is decoupled decay, for which `decoupled_weight_decay` is the name that says so.

    Args:
        weight_decay: $\lambda \ge 0$; may be a schedule.
        mask: which leaves decay: a tree of bools like the parameters (or a prefix of it), a function `params -> tree
            of bools`, or a predicate `(path, leaf) -> bool` with the path written `encoder/0/bias`. None: all.

    State:
        none.

    Source:
        Loshchilov & Hutter, arXiv:1711.05101, section 2 and Algorithm 1 (L2).
    """

    weight_decay: Any = number_field(default=0.0, minimum=0.0)
    mask: Any = None

    requires: ClassVar[tuple[str, ...]] = ("param",)
    ignores_zeros: ClassVar[bool] = True

    def applies(self, params: Any) -> list[bool] | None:
        return None if self.mask is None else mask_leaves(self.mask, params, label(self))

    def emit(self, s: SimpleNamespace, slots: dict[str, jax.Array], signal: Signal) -> Signal:
        return signal.write(_decayed(signal.update, s.weight_decay, signal.param))


@jax.custom_jvp
def _decayed(update: jax.Array, decay: jax.Array, param: jax.Array) -> jax.Array:
    """`update + decay * param`, for which a program that knows a decay of 0 does not read the parameter."""
    return jnp.where(decay == 0, update, update + decay * param)


@_decayed.defjvp
def _decayed_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    (_, decay, param), (d_update, d_decay, d_param) = primals, tangents
    return _decayed(*primals), d_update + (d_decay * param + decay * d_param)


class decoupled_weight_decay(add_decayed_weights):
    r"""Add the decay to the update behind the estimators, so that it does not enter the moments.

    $$u \leftarrow u + \lambda p$$

    With `scale_by_learning_rate` behind it, the decay is multiplied by the learning rate (PyTorch's and Optax's AdamW).
    Between `scale(alpha)` and a schedule of the multiplier $\eta_t$ it is multiplied by the schedule alone, as the paper
    has it: `chain(..., scale(alpha), decoupled_weight_decay(w), scale_by_learning_rate(eta))`.

    Args:
        weight_decay: $\lambda \ge 0$; may be a schedule.
        mask: as for `add_decayed_weights`.

    State:
        none.

    Raises:
        ValueError: an estimator stands behind it in its scope: then it would be L2 regularization.

    Source:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, Algorithm 2, line 12.
    """

    def check_place(self, before: dict[str, Any]) -> None:
        if "captured" not in before:
            before["decay before"] = self


def mask_leaves(mask: Any, params: Any, owner: str) -> list[bool]:
    """For each leaf of the parameters whether a mask lets a stage act on it."""
    if isinstance(mask, StaticTree):
        mask = mask.tree
    if callable(mask):
        if _takes_path_and_leaf(mask):
            flat = jax.tree_util.tree_flatten_with_path(params)[0]
            return [_as_bool(mask(trees.path_name(path), leaf), owner, trees.path_name(path)) for path, leaf in flat]
        mask = mask(params)
    paths = trees.leaf_paths(params)
    given = [
        trees.path_name(p) for p, m in jax.tree_util.tree_flatten_with_path(mask, is_leaf=_is_none)[0] if m is None
    ]
    if set(given) & set(paths):
        path = min(set(given) & set(paths))
        raise TypeError(f"{owner}: leaf {path}: expected the mask to say True or False, got None")
    try:
        full = jax.tree.map(lambda m, sub: jax.tree.map(lambda _: m, sub), mask, params)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{owner}: the mask does not fit the parameters: {error}") from error
    return [_as_bool(m, owner, path) for m, path in zip(jax.tree.leaves(full), paths, strict=True)]


def _takes_path_and_leaf(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters) == 2


def _is_none(x: Any) -> bool:
    return x is None


def _as_bool(value: Any, owner: str, path: str) -> bool:
    if isinstance(value, jax.core.Tracer) or not (np.asarray(value).dtype == np.bool_):
        raise TypeError(f"{owner}: leaf {path}: expected the mask to say True or False, got {value!r}")
    return bool(value)
