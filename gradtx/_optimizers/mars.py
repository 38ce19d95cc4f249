"""MARS."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._optimizers.adam import adamw
from gradtx._primitives.leaf_clipping import clip_by_leaf_norm
from gradtx._primitives.previous import variance_reduction
from gradtx._storing import stored


def mars(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    gamma: Any = 0.025,
    max_norm: Any = 1.0,
    storage: Any = None,
) -> Stage:
    r"""AdamW on gradients whose variance is reduced by their last change: MARS-AdamW in its approximate form.

    $$c_t = g_t + \gamma \frac{b_1}{1 - b_1} (g_t - g_{t-1}), \qquad \tilde c_t = c_t \min(1, 1 / \lVert c_t \rVert)$$

    leaf by leaf, and $\tilde c_t$ is the gradient of `adamw`. All parameters are treated alike; the authors' code leaves
    vectors to AdamW, as `by_path` can.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the second moment, in [0, 1), may be a schedule.
        eps: added outside the root, >= 0.
        eps_root: added inside the root, >= 0.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        weight_decay: $\lambda \ge 0$, a number or a schedule; multiplied by the learning rate.
        mask: which leaves decay, as for `adamw`. None: all.
        gamma: $\gamma$, how much of the change counts, a number or a schedule.
        max_norm: the largest norm of a leaf's corrected gradient, >= 0.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(variance_reduction(gamma, b1), clip_by_leaf_norm(max_norm), adamw(learning_rate, ...))`.

    Source:
        Yuan et al., arXiv:2411.10438, Algorithm 2 (MARS-AdamW) with the clipping of equation 7.
    """
    return stored(
        chain(
            variance_reduction(gamma, b1),
            clip_by_leaf_norm(max_norm),
            adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask),
        ),
        storage,
    )
