"""State dicts of `torch.optim`, both ways."""

from __future__ import annotations

import copy
from typing import Any

import jax
import numpy as np

from gradtx._core import dtypes
from gradtx._core.order import label
from gradtx._core.scopes import enter_scope
from gradtx._core.slots import State
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.deltas import scale_by_delta_rms
from gradtx._primitives.infinity_norm import scale_by_infinity_norm
from gradtx._primitives.moments import ema_centered_moment, ema_first_moment, ema_second_moment, sum_of_squares
from gradtx._primitives.momentum import trace
from gradtx._primitives.rectification import ema_second_moment_of_length
from gradtx._primitives.resilient import scale_by_rprop
from gradtx._primitives.running_max import running_max
from gradtx._primitives.scaling import scale, scale_by_learning_rate, scale_by_rms
from gradtx.interop._nadam import scheduled_nesterov
from gradtx.interop._names import Axes, Names, correspondence, turned
from gradtx.interop._raw import conversion_of, decay_of
from gradtx.interop._slots import Layout, Once, Raws, agreed_count, assemble, layout_of, raw_arrays
from gradtx.interop._torch_chains import identify

_ADAM = {
    (ema_first_moment, "mu"): "exp_avg",
    (ema_second_moment, "nu"): "exp_avg_sq",
    (running_max, "nu_max"): "max_exp_avg_sq",
}
# What PyTorch calls the raw arrays of a stage.
KEYS: dict[str, dict[Any, str]] = {
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Adamax": {(ema_first_moment, "mu"): "exp_avg", (scale_by_infinity_norm, "nu"): "exp_inf"},
    "NAdam": {
        (ema_first_moment, "mu"): "exp_avg",
        (scheduled_nesterov, "mu_product"): "mu_product",
        (ema_second_moment, "nu"): "exp_avg_sq",
    },
    "RAdam": {(ema_first_moment, "mu"): "exp_avg", (ema_second_moment_of_length, "nu"): "exp_avg_sq"},
    "SGD": {(trace, "trace"): "momentum_buffer"},
    "RMSprop": {
        (ema_second_moment, "nu"): "square_avg",
        (ema_centered_moment, "nu"): "square_avg",
        (ema_centered_moment, "mu"): "grad_avg",
        (trace, "trace"): "momentum_buffer",
    },
    "Adagrad": {(sum_of_squares, "nu"): "sum"},
    "Adadelta": {(ema_second_moment, "nu"): "square_avg", (scale_by_delta_rms, "delta"): "acc_delta"},
    "Rprop": {(scale_by_rprop, "step_sizes"): "step_size", (scale_by_rprop, "previous_sign"): "prev"},
}


def from_torch(
    tx: Any,
    source: Any,
    params: Any,
    *,
    names: Names,
    axes: Axes | None = None,
    count: int | None = None,
    kind: str | None = None,
) -> State:
    """The state of a gradtx chain that goes on where a `torch.optim` optimizer stopped.

    Args:
        tx: the gradtx chain; `transform_from_torch(source)` is the one that does what the optimizer did.
        source: the optimizer or its state dict; tensors or NumPy arrays.
        params: the parameters, a tree.
        names: which leaf is which parameter: the leaves' paths (`"dense/kernel"`) in the order of PyTorch's parameters, or
            `{path: number}`, or `{path: name}` for an optimizer that was built with `model.named_parameters()`.
        axes: `{pattern: permutation}` for leaves whose axes lie otherwise: the leaf is PyTorch's array transposed by it.
            `{"**/kernel": (1, 0)}` for a linear layer of flax's. A `Reshape` does more than a permutation. **A square
            matrix shows no mistake in this.** Patterns are those of `by_path`; the first that matches counts.
        count: the number of completed steps; needed for SGD, which does not count them.
        kind: the optimizer's class, if a state dict of an old PyTorch cannot tell Adam from AdamW.

    Returns:
        A state for `tx.update`.

    Raises:
        TypeError: a stage of `tx` or the optimizer has no counterpart.
        ValueError: names, shapes, decays or step counts do not fit; the message names the leaf.
    """
    caller = "from_torch"
    layout = layout_of(tx, params, caller)
    kind, groups = identify(source, kind, caller)
    kept = (source if isinstance(source, dict) else source.state_dict())["state"]
    corr = correspondence(layout.paths, groups, names, axes, layout.leaves, caller)
    group_of = {i: group for group in groups for i in group["params"]}
    found = {i: {k: x for k, x in entry.items() if x is not None} for i, entry in kept.items()}
    steps = {corr.titles[n]: _step(found[i]["step"]) for n, i in enumerate(corr.ids) if "step" in found.get(i, {})}
    if steps and len(steps) < len(corr.ids):
        left = next(n for n, title in enumerate(corr.titles) if title not in steps)
        raise ValueError(
            f"{caller}: leaf {layout.paths[left]}: {corr.titles[left]} has made no step and others have; a chain counts its "
            "steps once"
        )
    given = {} if steps or kind == "SGD" else {"an optimizer that has made no step": 0}
    done = agreed_count(steps or given, count, caller, f"{kind} of PyTorch keeps no step count")
    raws: Raws = {}
    once: Once = {}
    for n, i in enumerate(corr.ids):
        entry = {k: x for k, x in found.get(i, {}).items() if k != "step"}
        places = _places(layout, kind, n, caller)
        if done and set(places.values()) != set(entry):
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: the chain takes {sorted(places.values())} from {kind}'s state, and "
                f"{corr.titles[n]} has {sorted(entry)}; transform_from_torch builds the chain that fits"
            )
        if not done and entry:
            raise ValueError(f"{caller}: leaf {layout.paths[n]}: no step was made, but there is {sorted(entry)}")
        _check_numbers(layout, kind, group_of[i], n, caller)
        for (stage, name), key in places.items():
            if not done:
                if kind == "SGD" and _dampening(group_of[i]):
                    raise ValueError(
                        f"{caller}: PyTorch's SGD does not dampen its first gradient, and a chain does: make one step there"
                    )
                continue
            mine = raws.setdefault((stage, n), {})
            if name in conversion_of(layout.stages[stage]).once:
                once.setdefault(stage, {})[name] = _numpy(entry[key])
                continue
            array = turned(corr, layout, n, _numpy(entry[key]), key, caller)
            factor = _factor(layout, kind, stage, group_of[i], caller)
            mine[name] = array if factor == 1.0 else array.astype(np.result_type(array, np.float64)) * factor
    return tx.init(params) if not done else assemble(tx, params, layout, done, raws, once)


def to_torch(
    tx: Any, state: State, params: Any, *, names: Names, like: Any, axes: Axes | None = None, kind: str | None = None
) -> dict[str, Any]:
    """The state dict with which a `torch.optim` optimizer goes on where a gradtx chain stopped.

    Args:
        tx: the gradtx chain.
        state: its state.
        params: the parameters.
        names: which leaf is which parameter; see `from_torch`.
        like: PyTorch's optimizer or its state dict, for its parameter groups, whose hyperparameters stay.
        axes: how the leaves' axes lie; see `from_torch`.
        kind: see `from_torch`.

    Returns:
        A state dict of tensors for `optimizer.load_state_dict`.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: a stage of `tx` or the optimizer has no counterpart.
        ValueError: names, decays or what is kept do not fit.
    """
    import torch

    caller = "to_torch"
    layout = layout_of(tx, params, caller)
    kind, groups = identify(like, kind, caller)
    corr = correspondence(layout.paths, groups, names, axes, layout.leaves, caller)
    group_of = {i: group for group in groups for i in group["params"]}
    count, raws, once = raw_arrays(tx, state, layout, caller)
    kept: dict[int, dict[str, Any]] = {}
    for n, i in enumerate(corr.ids):
        places, group = _places(layout, kind, n, caller), group_of[i]
        if set(places.values()) != _expected(kind, group):
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: the chain keeps {sorted(places.values())}, and {kind} of PyTorch with these "
                f"hyperparameters {sorted(_expected(kind, group))}"
            )
        _check_numbers(layout, kind, group, n, caller)
        if not count or not places:
            continue
        entry = kept[i] = {} if kind == "SGD" else {"step": torch.tensor(float(count))}
        for (stage, name), key in places.items():
            narrow = dtypes.compute_dtype(np.dtype(layout.leaves[n].dtype))
            if name in once.get(stage, {}):
                entry[key] = torch.tensor(float(once[stage][name]))
                continue
            array = np.asarray(raws[stage, n][name]) / _factor(layout, kind, stage, group, caller)
            array = corr.reshapes[n].to_torch(array)
            entry[key] = torch.from_numpy(np.array(array, narrow, order="C"))
    source = like if isinstance(like, dict) else like.state_dict()
    return {"state": dict(sorted(kept.items())), "param_groups": copy.deepcopy(source["param_groups"])}


def _places(layout: Layout, kind: str, n: int, caller: str) -> dict[tuple[int, str], str]:
    """`{(stage, raw name): PyTorch's key}` for what the chain keeps for one leaf."""
    keys = KEYS[kind]
    found: dict[tuple[int, str], str] = {}
    for i in layout.columns[n]:
        stage = layout.stages[i]
        mine = {(i, name): key for (cls, name), key in keys.items() if cls is type(stage)}
        if not mine or set(mine.values()) & set(found.values()):
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: {kind} of PyTorch keeps nothing that {label(stage)} could take"
            )
        if isinstance(stage, running_max) and any(isinstance(s, bias_correction) for s in _before(layout, i)):
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: PyTorch takes the largest second moment before its bias is corrected, and "
                f"{label(stage)} stands behind bias_correction; transform_from_torch builds the chain that fits"
            )
        if np.iscomplexobj(np.empty(0, layout.leaves[n].dtype)) and type(stage) is not trace:
            raise TypeError(
                f"{caller}: leaf {layout.paths[n]}: PyTorch squares the two parts of a complex number by themselves, which "
                f"{label(stage)} does not"
            )
        found.update(mine)
    return found


def _expected(kind: str, group: dict[str, Any]) -> set[str]:
    """What PyTorch keeps for the parameters of a group, beside the step count."""
    if kind in ("Adam", "AdamW"):
        return {"exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if group["amsgrad"] else set())
    if kind in ("SGD", "RMSprop"):
        momentum = {"momentum_buffer"} if float(group["momentum"]) else set()
        if kind == "SGD":
            return momentum
        return {"square_avg"} | momentum | ({"grad_avg"} if group["centered"] else set())
    return set(KEYS[kind].values())


def _check_numbers(layout: Layout, kind: str, group: dict[str, Any], n: int, caller: str) -> None:
    """The numbers that the averages depend on must be the same on both sides."""
    theirs: dict[Any, Any] = {}
    if kind in ("Adam", "AdamW"):
        theirs = {ema_first_moment: group["betas"][0], ema_second_moment: group["betas"][1]}
    elif kind == "NAdam":
        b1, b2 = group["betas"]
        theirs = {ema_first_moment: b1, scheduled_nesterov: b1, ema_second_moment: b2}
    elif kind in ("Adamax", "RAdam"):
        second = scale_by_infinity_norm if kind == "Adamax" else ema_second_moment_of_length
        theirs = {ema_first_moment: group["betas"][0], second: group["betas"][1]}
    elif kind in ("SGD", "RMSprop"):
        average = group.get("alpha")
        theirs = {trace: group["momentum"], ema_second_moment: average, ema_centered_moment: average}
    elif kind == "Adadelta":
        theirs = {ema_second_moment: group["rho"], scale_by_delta_rms: group["rho"]}
    for i in layout.columns[n]:
        stage = layout.stages[i]
        if isinstance(stage, sum_of_squares):
            ours, other, what = stage.initial, group["initial_accumulator_value"], "initial value"
        else:
            ours, other, what = decay_of(stage), theirs.get(type(stage)), "decay"
        if ours is not None and other is not None and abs(float(ours) - float(other)) > 1e-12:
            raise ValueError(
                f"{caller}: leaf {layout.paths[n]}: expected {label(stage)} to have PyTorch's {what}, {float(other):g}, got "
                f"{float(ours):g}; replace it after the state is made"
            )


def _factor(layout: Layout, kind: str, index: int, group: dict[str, Any], caller: str) -> float:
    """By what PyTorch's array is multiplied to be this stage's: a momentum may stand before or behind other factors."""
    if type(layout.stages[index]) is not trace:
        return 1.0
    factor = 1.0 / (1.0 - _dampening(group)) if kind == "SGD" else 1.0
    if kind == "SGD" and group.get("maximize"):
        factor = -factor  # PyTorch turns the gradient's sign before the momentum, too
    for stage in _before(layout, index):
        if isinstance(stage, scale_by_rms):
            break
        number = getattr(stage, "learning_rate", getattr(stage, "step_size", None))
        if isinstance(stage, (scale, scale_by_learning_rate)):
            if not isinstance(number, float):
                raise ValueError(
                    f"{caller}: {label(stage)} stands before the momentum, and PyTorch's momentum is free of the learning "
                    "rate; expected it behind, or a number"
                )
            factor *= -number if isinstance(stage, scale_by_learning_rate) and stage.flip_sign else number
    return factor


def _before(layout: Layout, index: int) -> list[Any]:
    """The stages before this one in its scope, the nearest first."""
    before = list(reversed(layout.stages[:index]))
    return before[: next((n for n, stage in enumerate(before) if isinstance(stage, enter_scope)), len(before))]


def _dampening(group: dict[str, Any]) -> float:
    return float(group.get("dampening", 0.0))


def _step(x: Any) -> int:
    return int(_numpy(x))


def _numpy(x: Any) -> np.ndarray:
    """A tensor or an array as a NumPy array."""
    if isinstance(x, (np.ndarray, jax.Array)) or not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
