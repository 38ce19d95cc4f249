"""The check that lengths of schedules share."""

from __future__ import annotations

from gradtx._core.schedule import Schedule


def positive(schedule: Schedule, name: str) -> None:
    """Check a length in steps, and keep it as an int."""
    value = getattr(schedule, name)
    where = f"{type(schedule).__name__}({name}=...)"
    try:
        whole = int(value)
    except (TypeError, ValueError):
        whole = None
    if whole is None or isinstance(value, str) or whole != value:
        raise TypeError(f"{where}: expected a whole number of steps, got {value!r} of type {type(value).__name__}")
    if whole <= 0:
        raise ValueError(f"{where}: expected a number of steps > 0, got {value!r}")
    object.__setattr__(schedule, name, whole)
