"""Calling somebody else's transformation: a keyword it misses is answered in words."""

from __future__ import annotations

import difflib
import re
from typing import Any

import optax

_MISSING = re.compile(r"missing \d+ required keyword-only arguments?: '(\w+)'")


def update(stage: Any, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """One step of a foreign transformation inside a chain.

    Raises:
        TypeError: it requires a keyword that was not given; the message names the nearest one that was. (Optax's chains
            hide in `**extra_args` what their parts require, so the requirement is only known from the call.)
    """
    tx = stage.transformation
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        return tx.update(updates, state, params)
    try:
        return tx.update(updates, state, params, **extra)
    except TypeError as error:
        missing = _MISSING.search(str(error))
        if missing is None or missing[1] in extra:
            raise
        raise missing_keyword(repr(stage), missing[1], extra) from error


def missing_keyword(owner: str, name: str, extra: dict[str, Any]) -> TypeError:
    """The error for a required keyword that was not given, with the nearest one that was."""
    near = difflib.get_close_matches(name, list(extra), n=1)
    given = f"got {near[0]}=, did you mean {name}=?" if near else f"got {sorted(extra) or 'no keywords'}"
    return TypeError(f"{owner} needs the keyword {name}=: call update(gradients, state, params, {name}=...); {given}")
