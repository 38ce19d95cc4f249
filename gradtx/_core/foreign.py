"""Calling somebody else's transformation: what it asks for by keyword is checked before it is called."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import optax


def required_keywords(function: Any) -> list[str]:
    """The keyword-only arguments of an update function that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]


def check_keywords(stage: Any, required: list[str], extra: dict[str, Any]) -> None:
    """Raise a TypeError that names a required keyword which is missing, and the nearest one that was given."""
    for name in required:
        if name not in extra:
            near = difflib.get_close_matches(name, list(extra), n=1)
            given = f"; got {near[0]}=, did you mean {name}=?" if near else f"; got {sorted(extra) or 'no keywords'}"
            raise TypeError(f"{stage!r} needs the keyword {name}=: call update(gradients, state, params, {name}=...){given}")


def update(stage: Any, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """One step of a foreign transformation inside a chain."""
    tx = stage.transformation
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        return tx.update(updates, state, params)
    check_keywords(stage, required_keywords(tx.update), extra)
    return tx.update(updates, state, params, **extra)
