"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._matrices import axes_between, leaves_with, matrices
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.eigenbasis import from_eigenbasis, to_eigenbasis
from gradtx._primitives.moments import ema_first_moment, ema_second_moment
from gradtx._primitives.scaling import scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def soap(
    learning_rate: Any = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.95,
    shampoo_beta: Any = None,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
    mask: Any = None,
    mu_dtype: Any = None,
    *,
    dimension_numbers: Any = None,
    adam_paths: tuple[Any, ...] = (),
    storage: Any = None,
    precondition_1d: bool = False,
    merge_dims: bool = False,
) -> Stage:
    r"""SOAP: AdamW whose second moment and division are in the eigenbasis of the gradient's Kronecker factors.

    $$p_t = p_{t-1} - \eta_t \left( Q_L \frac{Q_L^H \hat m_t Q_R}{\sqrt{\hat v_t} + \epsilon} Q_R^H
    + \lambda p_{t-1} \right), \qquad v_t = b_2 v_{t-1} + (1 - b_2) |Q_L^H g_t Q_R|^2$$

    with $Q_L$, $Q_R$ from `to_eigenbasis`. **Which parameter gets what:** a parameter of two axes is a matrix, every
    other gets AdamW with the same numbers. Parameters of more axes are rotated only if `dimension_numbers` says which
    of them are rows and columns; their other axes are a stack, decomposed in one batched call. `merge_dims` and
    `precondition_1d` rotate arrays of more axes and vectors as the authors' code can. A side that is longer than
    `max_precond_dim` is not rotated, so a limit between the lengths of the sides gives the paper's one-sided SOAP.

    Args:
        learning_rate: $\eta$, a number or a schedule.
        b1: the decay of the first moment, in [0, 1).
        b2: the decay of the second moment, in [0, 1).
        shampoo_beta: the decay of the Kronecker factors, in [0, 1); None: the same as `b2`.
        eps: $\epsilon \ge 0$.
        weight_decay: $\lambda \ge 0$, times the learning rate.
        precondition_frequency: the steps between renewals of the basis, >= 1.
        max_precond_dim: a side longer than this keeps its own basis, without state; with 0 this is AdamW.
        mask: which leaves decay, as for `decoupled_weight_decay`.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        dimension_numbers: which parameters are matrices, and what their axes are: as `muon_weight_dimension_numbers`
            of `muon`. What it does not mention gets AdamW.
        adam_paths: path patterns of parameters that get AdamW whatever their shape.
        storage: how the state is kept, as in `with_storage`; None: float32.
        precondition_1d: whether vectors are rotated by the eigenvectors of their one factor, n² for n elements.
        merge_dims: whether in every parameter of two axes or more neighbouring axes are joined while their product is
            at most `max_precond_dim`, and each side that results has a factor; up to six. A small matrix becomes one
            vector, with a full factor: choose `max_precond_dim` accordingly. Not together with `dimension_numbers`.

    Returns:
        `chain(ema_first_moment(b1, mu_dtype), to_eigenbasis(shampoo_beta, precondition_frequency, max_precond_dim),
        ema_second_moment(b2), bias_correction(), scale_by_rms(eps), from_eigenbasis(),
        decoupled_weight_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Raises:
        ValueError: both `dimension_numbers` and `merge_dims`. From `init` and `update`: a parameter chosen as a matrix
            does not have the axes named for it, or has more than six sides.

    Source:
        Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, Algorithm 3; defaults of
        the authors' implementation, https://github.com/nikhilvyas/SOAP, which applies no update in the first step.
    """
    beta = b2 if shampoo_beta is None else shampoo_beta
    groups: list[tuple[Any, Any]] = []
    if dimension_numbers is None:
        plain = not merge_dims and not precondition_1d
        among = axes_between(1 if precondition_1d else 2, None if merge_dims else 2, adam_paths)
        groups.append((matrices(adam_paths) if plain else among, None))
    elif merge_dims:
        raise ValueError("soap: expected dimension_numbers, which name the sides, or merge_dims, which finds them")
    else:
        groups += leaves_with(dimension_numbers, adam_paths, "soap(dimension_numbers=...)")
        if precondition_1d:
            groups.append((axes_between(1, 1, adam_paths), None))
    rotations = [
        to_eigenbasis(beta, precondition_frequency, max_precond_dim, numbers, who, merge_dims)
        for who, numbers in groups
    ]
    return stored(
        chain(
            ema_first_moment(b1, mu_dtype),
            *rotations,
            ema_second_moment(b2),
            bias_correction(),
            scale_by_rms(eps),
            *([from_eigenbasis()] if rotations else []),
            decoupled_weight_decay(weight_decay, mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
