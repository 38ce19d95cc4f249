"""The numbers of an optimizer as its next step will use them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradtx._core import addresses
from gradtx._core.dtypes import scalar_dtype
from gradtx._core.hyperparameters import Decay
from gradtx._core.schedule import Schedule
from gradtx._core.slots import State
from gradtx._core.transform import Transform
from gradtx._inject import InjectedHyperparams, InjectState, numbers_of
from gradtx._inspect import walk


def hyperparams(tx: Any, state: Any) -> dict[str, Any]:
    """Every number of an optimizer by name, as its next step will use it.

    Schedules are evaluated at the step count of the state, in the arithmetic of the step itself. Works on concrete and on
    traced values: what it returns may leave a jitted function.

    Args:
        tx: a transformation, gradtx's at any depth of chains, groups and wrappers; or Optax's around gradtx's (`optax.chain`,
            `optax.MultiSteps`, `optax.masked`, ...).
        state: its state, or anything that has it inside: flax's `TrainState`, the state of an Optax wrapper.

    Returns:
        `{address: value}`, with the addresses that `tx.replace` takes: the name alone where it occurs once, else
        `stage.name` or `pattern.name`. A number that stands in `tx` comes as it is (a Python float, or the tracer in its
        place); what is computed, or held by `inject_hyperparams`, as a float32 scalar (float64 under x64). What steers an
        algorithm (`ns_steps`, `every_k`) is static and not in it. Of an `optax.inject_hyperparams` its state shows what
        the last step used.

    Raises:
        ValueError: the state has none of `tx` in it, or several that fit.
        TypeError: `tx` is no transformation.

    Example:
        >>> import gradtx, jax.numpy as jnp
        >>> tx = gradtx.adam(gradtx.schedules.linear_schedule(1.0, 0.0, 4))
        >>> state = tx.init({"w": jnp.zeros(3)})
        >>> float(gradtx.hyperparams(tx, state)["learning_rate"])
        1.0
    """
    found = walk.ours_inside(tx, "hyperparams")
    tables = [_of_ours(ours, walk.find(ours, state, "hyperparams")) for ours in found]
    tables += [dict(x.hyperparams) for x in _injected_by_optax(state)]
    if not tables:
        raise ValueError(f"hyperparams: found no numbers: {tx!r} is made of closures that do not show theirs")
    return _merged(tables)


def _of_ours(tx: Transform, state: Any) -> dict[str, Any]:
    counts: dict[walk.Way, Any] = {}
    held: dict[walk.Way, Any] = {}
    for part in walk.parts(tx, state):
        count = _first_count(part)
        counts[part.way] = count
        if isinstance(part.tx, InjectedHyperparams):
            for name, place in numbers_of(part.tx.tx).items():
                held[(*part.way, ("transforms", 0), *place.way)] = part.state.hyperparams[name]
    values = {}
    for address, place in addresses.addresses(tx, numeric_only=True).items():
        if place.in_schedule or place.value is None:
            continue
        if place.way in held:
            values[address] = jnp.asarray(held[place.way])
        else:
            values[address] = value_at(place.value, _nearest(counts, place.way))
    return values


def value_at(number: Any, count: Any) -> Any:
    """A number, decay or schedule after `count` completed steps."""
    if isinstance(number, Schedule):
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(number(jnp.asarray(count))).astype(scalar_dtype())
    return number.value if isinstance(number, Decay) else number


def _first_count(part: walk.Part) -> Any:
    """The step count of a chain, or of the first chain inside a wrapper."""
    return next((p.state.count for p in walk.parts(part.tx, part.state) if isinstance(p.state, State)), None)


def _nearest(counts: dict[walk.Way, Any], way: walk.Way) -> Any:
    """The count of the innermost part around a place."""
    return next(counts[way[:n]] for n in range(len(way), -1, -1) if way[:n] in counts)


def _injected_by_optax(state: Any) -> list[Any]:
    kinds = tuple(
        kind
        for name in ("InjectHyperparamsState", "InjectStatefulHyperparamsState")
        if (kind := getattr(optax, name, None)) is not None
    )
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kinds))
    return [x for x in leaves if isinstance(x, kinds) and not isinstance(x, InjectState)]


def _merged(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """One table; a name that several have is followed by a number."""
    times = Counter(name for table in tables for name in table)
    seen: Counter[str] = Counter()
    merged = {}
    for table in tables:
        for name, value in table.items():
            merged[name if times[name] == 1 else f"{name}[{seen[name]}]"] = value
            seen[name] += 1
    return merged
