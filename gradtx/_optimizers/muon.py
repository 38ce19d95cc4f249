"""Muon for matrices, AdamW for the other parameters."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._core.transform import Transform
from gradtx._groups import by_path
from gradtx._matrices import axes_named, leaves_with, matrices
from gradtx._optimizers.adam import scale_by_adam
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.matrices import AxesOf
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.momentum import nesterov as look_ahead
from gradtx._primitives.orthogonalize import orthogonalize, scale_by_dual_norm, scale_by_shape
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored


def muon(
    learning_rate: Any,
    ns_coeffs: Any = "standard",
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
    adam_paths: tuple[Any, ...] = (),
    ns_dtype: Any = None,
    storage: Any = None,
) -> Stage:
    r"""Muon: momentum, orthogonalized. Parameters that are not matrices get AdamW.

    $$p_t = p_{t-1} - \eta_t \left( s \, \text{orthogonalize}(\hat m_t) + \lambda p_{t-1} \right)$$

    with $s$ from `scale_by_shape`. **Which parameter gets what:** a parameter of two axes is a matrix and gets Muon,
    every other AdamW. Embeddings and the output head have two axes too, and should get AdamW:
    `adam_paths=("**/embedding", "head/**")`. Parameters of more axes get Muon only if `muon_weight_dimension_numbers`
    says which of them are rows and columns; their other axes are a stack, whose matrices are orthogonalized each by
    itself in one batched product: `{"layers/**/kernel": MuonDimensionNumbers(-2, -1)}` for layers stacked by
    `vmap` or `scan`, `{"**/query": MuonDimensionNumbers(0, (1, 2))}` for several heads as one matrix. Complex matrices
    are orthogonalized to unitary ones.

    Args:
        learning_rate: $\eta$, a number or a schedule, of both.
        ns_coeffs: as for `orthogonalize`.
        ns_steps: the number of Newton-Schulz steps.
        beta: the decay of the momentum, in [0, 1), may be a schedule.
        eps: what is added to the norm of the momentum, and to the root in AdamW; >= 0.
        weight_decay: $\lambda \ge 0$ of the matrices, times the learning rate.
        weight_decay_mask: as for `decoupled_weight_decay`; of the matrices.
        mu_dtype: the dtype in which the first moments are stored; None is float32 (Optax: the parameters').
        nesterov: whether the momentum looks one step ahead, in both.
        adaptive: whether to scale by the dual norm of the momentum (`scale_by_dual_norm`).
        preconditioning: as for `orthogonalize`.
        adam_b1: AdamW's decay of the first moment.
        adam_b2: AdamW's decay of the second moment.
        adam_eps_root: what AdamW adds inside the root.
        adam_weight_decay: the decay of what is not a matrix, times the learning rate.
        adam_learning_rate: AdamW's learning rate, if it is another.
        muon_weight_dimension_numbers: which parameters get Muon, and what their axes are: a dict from path patterns
            (as in `by_path`; the first that matches counts) to `MuonDimensionNumbers`, or None for AdamW; or a tree of
            these like the parameters, or a prefix of it; or a function from the parameters to such a tree, which is called
            at each step (at a trace, under `jax.jit`). What is not mentioned gets AdamW.
        consistent_rms: as for `scale_by_shape`.
        adam_paths: path patterns of parameters that get AdamW whatever their shape.
        ns_dtype: the dtype of the iteration, as for `orthogonalize`.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(by_path({matrices(): chain(ema_first_moment(beta), nesterov(), bias_correction(), orthogonalize(),
        scale_by_shape(), decoupled_weight_decay(weight_decay)), "**": <AdamW's direction>}),
        scale_by_learning_rate(learning_rate))`; with an `adam_learning_rate`, the rates stand in the groups.

    Raises:
        ValueError: from `init` and `update`: a parameter chosen for Muon does not have the axes named for it.

    Source:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
        https://kellerjordan.github.io/posts/muon; the arguments are those of `optax.contrib.muon`.
    """

    def for_matrices(numbers: Any) -> list[Transform]:
        return [
            ema_first_moment(beta, mu_dtype),
            *([look_ahead()] if nesterov else []),
            bias_correction(),
            orthogonalize(ns_coeffs, ns_steps, eps, preconditioning, numbers, ns_dtype),
            *([scale_by_dual_norm(numbers)] if adaptive else []),
            scale_by_shape(consistent_rms, numbers),
            decoupled_weight_decay(weight_decay, weight_decay_mask),
        ]

    others = [
        scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov),
        decoupled_weight_decay(adam_weight_decay),
    ]
    groups: dict[Any, list[Transform]] = {}
    if muon_weight_dimension_numbers is None:
        groups[matrices(adam_paths)] = for_matrices(None)
    elif callable(muon_weight_dimension_numbers):
        axes = AxesOf(muon_weight_dimension_numbers)
        groups[axes_named(axes, adam_paths)] = for_matrices(axes)
    else:
        for who, numbers in leaves_with(muon_weight_dimension_numbers, adam_paths):
            groups[who] = for_matrices(numbers)
    groups["**"] = others
    if adam_learning_rate is None:
        together = by_path({who: chain(*stages) for who, stages in groups.items()})
        return stored(chain(together, scale_by_learning_rate(learning_rate)), storage)
    rates = {who: adam_learning_rate if who == "**" else learning_rate for who in groups}
    return stored(
        chain(by_path({who: chain(*stages, scale_by_learning_rate(rates[who])) for who, stages in groups.items()})),
        storage,
    )
