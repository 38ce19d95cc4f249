"""PSGD Kron: momentum, whitened by a Kronecker-factored preconditioner."""

from __future__ import annotations

import math
from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._groups import by_path
from gradtx._matrices import leaves_with
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.kronecker import scale_by_kron
from gradtx._primitives.layerwise import clip_by_block_rms
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored
from gradtx.schedules import exponential_decay


def kron(
    learning_rate: Any = 0.001,
    b1: Any = 0.9,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    preconditioner_update_probability: Any = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: str | None = None,
    momentum_into_precond_update: bool = True,
    precond_lr: Any = 0.1,
    precond_init_scale: Any = 1.0,
    mu_dtype: Any = None,
    *,
    seed: int = 0,
    dimension_numbers: Any = None,
    storage: Any = None,
) -> Stage:
    r"""PSGD with a Kronecker-factored preconditioner: momentum, whitened.

    $$p_t = p_{t-1} - \eta_t \left( \text{clip}(P \hat m_t) + \lambda p_{t-1} \right)$$

    with $P$ from `scale_by_kron`, and each parameter's update scaled down to a root mean square of at most 1.1. **Which
    parameter gets what:** one of two axes is a matrix with a factor for each side; of any other number of axes, a vector
    with a diagonal factor, unless `dimension_numbers` says which axes are rows and columns: the others are then a
    stack, whose matrices have factors of their own, in one batched product.

    Args:
        learning_rate: $\eta$, a number or a schedule.
        b1: the decay of the momentum, in [0, 1); may be a schedule.
        weight_decay: $\lambda \ge 0$, times the learning rate.
        weight_decay_mask: which leaves decay, as for `decoupled_weight_decay`.
        preconditioner_update_probability: the share of steps that update the preconditioner, a number or a schedule.
            None: 1 for 250 steps, then falling by a factor of e in 1000 steps, to 0.03.
        max_size_triangular: as for `scale_by_kron`.
        min_ndim_triangular: as for `scale_by_kron`.
        memory_save_mode: as for `scale_by_kron`.
        momentum_into_precond_update: as for `scale_by_kron`.
        precond_lr: as for `scale_by_kron`.
        precond_init_scale: as for `scale_by_kron`.
        mu_dtype: the dtype in which the momentum is stored; None is float32.
        seed: of the preconditioner's random probes.
        dimension_numbers: which parameters are matrices, and what their axes are: as `muon_weight_dimension_numbers`
            of `muon`. What it does not mention is a vector.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(ema_first_moment(b1, mu_dtype), bias_correction(), scale_by_kron(preconditioner_update_probability, ...),
        clip_by_block_rms(1.1), decoupled_weight_decay(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate))`; with `dimension_numbers` the first four in `by_path`.

    Raises:
        ValueError: from `init` and `update`: a parameter does not have the axes that `dimension_numbers` names for it.

    Source:
        Li, arXiv:1512.04202 and arXiv:2402.11858; arguments and defaults of
        https://github.com/evanatyourservice/kron_torch.
    """
    probability = preconditioner_update_probability
    if probability is None:
        probability = exponential_decay(1.0, 1000, math.exp(-1), 250, end_value=0.03)

    def direction(numbers: Any, vectors: bool) -> list[Any]:
        return [
            ema_first_moment(b1, mu_dtype),
            bias_correction(),
            scale_by_kron(
                probability,
                max_size_triangular,
                min_ndim_triangular,
                memory_save_mode,
                momentum_into_precond_update,
                precond_lr,
                precond_init_scale,
                seed,
                numbers,
                vectors,
            ),
            clip_by_block_rms(1.1),
        ]

    stages = direction(None, False)
    if dimension_numbers is not None:
        groups: dict[Any, Any] = {
            who: chain(*direction(numbers, False))
            for who, numbers in leaves_with(dimension_numbers, (), "kron(dimension_numbers=...)")
        }
        stages = [by_path({**groups, "**": chain(*direction(None, True))})]
    return stored(
        chain(
            *stages,
            decoupled_weight_decay(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
