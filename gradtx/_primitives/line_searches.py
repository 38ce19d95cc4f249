"""Optax's line searches as data: what they were built with, so that a chain with one prints, compares and pickles."""

from __future__ import annotations

import functools
from typing import Any

import optax

from gradtx._core.spec import fields_of
from gradtx._core.stages import Opaque


class _LineSearch(Opaque):
    """A stage that chooses the length of a step along the update by evaluating the loss."""

    @property
    def transformation(self) -> Any:
        return _built(type(self).__name__, tuple((f.name, getattr(self, f.name)) for f in fields_of(self)))


@functools.lru_cache(maxsize=64)
def _built(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    return getattr(optax, name)(**dict(arguments))


class scale_by_zoom_linesearch(_LineSearch):
    r"""Scale the update by a step size that decreases the loss enough, and its slope too (the strong Wolfe conditions).

    It is `optax.scale_by_zoom_linesearch` of the same arguments, which are static. `update` needs the keywords `value`,
    `grad` and `value_fn`.

    Args:
        max_linesearch_steps: the most evaluations in one step.
        max_learning_rate: the largest step size; None: any.
        tol: by how much the conditions may be missed.
        increase_factor: by which the step size grows while an interval is sought.
        slope_rtol: the share of the slope by which the loss must decrease at least.
        curv_rtol: the share of the slope that may be left at most.
        approx_dec_rtol: the relative precision from which the decrease is judged by slopes; None: never.
        stepsize_precision: the shortest interval that is searched.
        initial_guess_strategy: where a search starts: `"keep"` (at the last step size) or `"one"`.
        verbose: whether to print why a search failed.

    State:
        Optax's `ScaleByZoomLinesearchState`.

    Source:
        Nocedal & Wright, "Numerical Optimization" (2nd edition, 2006), Algorithms 3.5 and 3.6.
    """

    max_linesearch_steps: int
    max_learning_rate: float | None = None
    tol: float = 0.0
    increase_factor: float = 2.0
    slope_rtol: float = 1e-4
    curv_rtol: float = 0.9
    approx_dec_rtol: float | None = 1e-6
    stepsize_precision: float = 1e-5
    initial_guess_strategy: str = "keep"
    verbose: bool = False


class scale_by_backtracking_linesearch(_LineSearch):
    r"""Scale the update by the first step size, on a falling scale, that decreases the loss enough (Armijo's condition).

    It is `optax.scale_by_backtracking_linesearch` of the same arguments, which are static. `update` needs the keywords
    `value`, `grad` and `value_fn`.

    Args:
        max_backtracking_steps: the most evaluations in one step.
        slope_rtol: the share of the slope by which the loss must decrease at least.
        decrease_factor: by which the step size shrinks.
        increase_factor: by which the last step size grows to be the first guess of the next search.
        max_learning_rate: the largest step size.
        atol: by how much the decrease may be missed.
        rtol: the same in proportion to the loss.
        store_grad: whether to keep the gradient at the new parameters for `optax.value_and_grad_from_state`.
        verbose: whether to print why a search failed.

    State:
        Optax's `ScaleByBacktrackingLinesearchState`.

    Source:
        Nocedal & Wright, "Numerical Optimization" (2nd edition, 2006), Algorithm 3.1.
    """

    max_backtracking_steps: int
    slope_rtol: float = 1e-4
    decrease_factor: float = 0.8
    increase_factor: float = 1.5
    max_learning_rate: float = 1.0
    atol: float = 0.0
    rtol: float = 0.0
    store_grad: bool = False
    verbose: bool = False
