"""`chain` puts transformations one behind the other; `scope` isolates some of them."""

from __future__ import annotations

from typing import Any, ClassVar

from gradtx._core import order
from gradtx._core.hyperparameters import stage_field
from gradtx._core.stages import Composite, Foreign, Stage, Wrapped, is_foreign
from gradtx._core.transform import Transform, Wrapper, named


class Chain(Stage):
    """Transformations one behind the other. Build it with `chain`."""

    composite: ClassVar[Composite | None] = "chain"
    stages: tuple[Any, ...] = stage_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        order.check_estimators(self)

    def _expression(self) -> str:
        return f"chain({', '.join(map(_show, self.stages))})"


class Scope(Stage):
    """A chain with a gradient and moments of its own. Build it with `scope`."""

    composite: ClassVar[Composite | None] = "scope"
    stages: tuple[Any, ...] = stage_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        order.check_estimators(self)

    def _expression(self) -> str:
        return f"scope({', '.join(map(_show, self.stages))})"


def _show(stage: Transform) -> str:
    name = stage.__dict__.get("_name")
    return f"({name!r}, {stage._expression()})" if name else stage._expression()


def chain(*transforms: Any) -> Chain:
    """Apply transformations one after the other.

    What flows is a record: the update, the gradient that the first estimator saw, the parameter, the moments. So
    primitives can be as small as one moving average and still compose into Adam. Chaining is associative: a chain
    inside a chain is its stages.

    Args:
        *transforms: gradtx transformations, Optax's, or pairs `(name, transformation)`.

    Returns:
        The composed transformation. Its state is a `State(count, stages)` with one entry a stage.

    Raises:
        TypeError: an argument is none of these.
        ValueError: two stages estimate the same moment of the gradient: put one into a `scope`.

    Example:
        >>> import gradtx
        >>> gradtx.chain(gradtx.clip(1.0), gradtx.sgd(0.1))
        chain(clip(1.0), scale_by_learning_rate(0.1))
    """
    return Chain(flat(transforms))


def scope(*transforms: Any) -> Scope:
    """Apply transformations with a gradient and moments of their own.

    What flows into the scope is the gradient of the stages in it, and what flows out is an update to the stages
    around it. So `chain(adam(1e-3), scope(ema_first_moment(0.9)))` averages Adam's updates.
    """
    return Scope(flat(transforms))


def named_chain(*transforms: tuple[str, Any]) -> Chain:
    """A chain of named stages, with Optax's signature: `named_chain(("clip", clip(1.0)), ("opt", adam(1e-3)))`."""
    for pair in transforms:
        if not (type(pair) is tuple and len(pair) == 2):
            raise TypeError(f"named_chain: expected pairs (name, transformation), got {pair!r}")
    return chain(*transforms)


def flat(transforms: tuple[Any, ...]) -> tuple[Stage, ...]:
    """Transformations as the stages of one chain."""
    stages: list[Stage] = []
    for position, tx in enumerate(transforms):
        name = None
        if type(tx) is tuple and len(tx) == 2 and isinstance(tx[0], str):
            name, tx = tx
        if is_foreign(tx):
            tx = Foreign(tx)
        if isinstance(tx, Wrapper):
            tx = Wrapped((tx,))
        if not isinstance(tx, Stage):
            raise TypeError(
                f"chain: expected argument {position} to be a gradtx or Optax transformation, got {_what(tx)}"
            )
        if name is not None:
            tx = named(name, tx)
        outer = tx.__dict__.get("_name")
        if not isinstance(tx, Chain):
            stages.append(tx)
            continue
        for stage in tx.stages:
            names = [n for n in (outer, stage.__dict__.get("_name")) if n]
            stages.append(named(".".join(names), stage) if names else stage)
    return tuple(stages)


def _what(value: Any) -> str:
    if isinstance(value, Transform):
        return f"{type(value).__name__}, which goes around a whole chain and not into it"
    hint = "; call it first" if callable(value) else ""
    return f"{value!r} of type {type(value).__name__}{hint}"
