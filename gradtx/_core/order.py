"""What is wrong with a stage, or with an order of stages."""

from __future__ import annotations

from typing import Any

from gradtx._core import stages as st
from gradtx._core.scopes import enter_scope, exit_scope

Selectors = tuple[tuple[Any, int], ...]


def label(stage: st.Stage) -> str:
    """What a message calls a stage."""
    name = stage.__dict__.get("_name")
    return f"{type(stage).__name__} ({name!r})" if name else type(stage).__name__


def _check_declarations(stage: st.Stage) -> None:
    for need in stage.requires:
        if need not in ("first", "second", "param"):
            raise ValueError(f"{label(stage)}.requires: expected 'first', 'second' or 'param', got {need!r}")
    names = [slot.name for slot in stage.slots()]
    if len(set(names)) != len(names):
        raise ValueError(f"{label(stage)}.slots: expected different names, got {names}")
    for slot in stage.slots():
        if slot.role not in ("parameter", "factored", "scalar"):
            raise ValueError(
                f"{label(stage)}: slot {slot.name!r}: expected role 'parameter', 'factored' or 'scalar', got {slot.role!r}"
            )
        if callable(slot.shape) != (slot.role == "factored"):
            raise ValueError(
                f"{label(stage)}: slot {slot.name!r}: a 'factored' slot, and no other, has a function for its shape"
            )


_ESTIMATORS = {
    "first": "an estimator of the first moment (ema_first_moment, trace)",
    "second": "an estimator of the second moment (ema_second_moment, sum_of_squares)",
}


def check_estimators(tx: Any) -> None:
    """Raise if two stages of one scope estimate the same moment of the gradient: no further stage can mend that."""
    seen: dict[str, st.Stage] = {}
    for stage in tx.stages:
        moment = getattr(stage, "estimates", None)
        if moment is None:
            continue
        if moment in seen:
            raise ValueError(
                f"{label(stage)} would estimate the {moment} moment that {label(seen[moment])} already estimates; "
                f"to average what flows in at this place, isolate it: scope({stage!r})"
            )
        seen[moment] = stage


def check_order(stages: tuple[st.Stage, ...]) -> None:
    """Raise if a stage stands where what it needs is not known, or where its work would be lost."""
    frames: list[dict[str, Any]] = [{}]
    for stage in stages:
        _check_declarations(stage)
        if isinstance(stage, enter_scope):
            frames.append({})
            continue
        if isinstance(stage, exit_scope):
            frames.pop()
            if frames[-1].get("captured"):
                frames[-1]["written by"] = "scope"
            continue
        frame = frames[-1]
        for need in stage.requires:
            if need in _ESTIMATORS and need not in frame:
                raise ValueError(f"{label(stage)} needs {_ESTIMATORS[need]} before it in its scope, and there is none")
        if isinstance(stage, st.Foreign) and frame.get("captured"):
            frame["foreign"] = stage
        if isinstance(stage, st.Leafwise):
            stage.check_place(frame)
        moment = getattr(stage, "estimates", None)
        if "decay before" in frame and (moment or frame.get("captured") is stage):
            raise ValueError(
                f"{label(frame['decay before'])} stands before {label(stage)}, so the decay would enter the moments: "
                "put it behind the estimators, or use add_decayed_weights for L2 regularization"
            )
        if moment:
            frame[moment] = stage
            frame.setdefault("captured", stage)
        if moment == "first":
            if frame.get("written by"):
                raise ValueError(
                    f"{label(stage)} averages the gradient and would discard what {frame['written by']} wrote since "
                    f"{label(frame['captured'])} captured it; to average the update instead: scope({type(stage).__name__}(...))"
                )
        elif frame.get("captured") and getattr(stage, "writes", True):
            frame["written by"] = label(stage)


def check_rounding(stages: tuple[st.Stage, ...], selectors: tuple[Selectors, ...]) -> None:
    """Raise if a stage writes an update that has been made to land on a 16-bit value."""
    rounding: list[tuple[st.Stage, Selectors]] = []
    for stage, inside in zip(stages, selectors, strict=True):
        if isinstance(stage, (enter_scope, exit_scope)):
            continue
        for before, other in rounding:
            if getattr(stage, "writes", True) and not _apart(inside, other):
                raise ValueError(
                    f"{label(stage)} stands behind {label(before)} and would change an update that leads to a rounded "
                    f"parameter: put {label(before)} last"
                )
        if st.rounds_parameters(stage):
            rounding.append((stage, inside))


def _apart(a: Selectors, b: Selectors) -> bool:
    """Whether two stages stand in different groups, and so act on different leaves."""
    return any(groups is others and i != j for groups, i in a for others, j in b)
