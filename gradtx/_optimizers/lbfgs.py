"""L-BFGS with a line search."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.line_searches import scale_by_zoom_linesearch
from gradtx._primitives.quasi_newton import scale_by_lbfgs
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._storing import stored

_ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


def lbfgs(
    learning_rate: Any = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Any = _ZOOM,
    *,
    storage: Any = None,
) -> Stage:
    r"""L-BFGS: steps by an inverse Hessian made of the last changes of the gradient, as long as a line search says.

    $$p_t = p_{t-1} - \eta_t H_t g_t$$

    The line searches are Optax's, and need the loss: `update(gradients, state, params, value=loss, grad=gradients,
    value_fn=function)`, or `step(..., value=..., grad=..., value_fn=...)`. It is meant for losses without noise.

    Args:
        learning_rate: a factor on the direction, a number or a schedule; None is 1.
        memory_size: how many pairs of steps and changes to keep, >= 1.
        scale_init_precond: whether to start from a scaled identity.
        linesearch: a transformation that chooses $\eta_t$: the default is
            `scale_by_zoom_linesearch(20, initial_guess_strategy="one")`; `scale_by_backtracking_linesearch` is another, and
            Optax's own will do (those neither pickle nor compare). None takes the direction as it is.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(scale_by_lbfgs(memory_size, scale_init_precond), scale_by_learning_rate(learning_rate), linesearch)`.

    Raises:
        TypeError: from `update`: the line search misses `value`, `grad` or `value_fn`.

    Source:
        Liu & Nocedal (1989); Nocedal & Wright, "Numerical Optimization" (2nd edition, 2006), Algorithm 7.5.
    """
    return stored(
        chain(
            scale_by_lbfgs(memory_size, scale_init_precond),
            scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
            *([] if linesearch is None else [linesearch]),
        ),
        storage,
    )
