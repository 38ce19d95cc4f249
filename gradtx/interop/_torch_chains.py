"""The gradtx chain that does what a PyTorch optimizer does."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradtx._core.chain import Chain, chain
from gradtx._core.hyperparameters import leaf_field
from gradtx._core.schedule import Schedule
from gradtx._groups import Groups, by_path
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.deltas import scale_by_delta_rms
from gradtx._primitives.infinity_norm import scale_by_infinity_norm
from gradtx._primitives.moments import ema_centered_moment, ema_first_moment, ema_second_moment, sum_of_squares
from gradtx._primitives.momentum import nesterov, trace
from gradtx._primitives.rectification import ema_second_moment_of_length, scale_by_rectified_rms
from gradtx._primitives.resilient import scale_by_rprop
from gradtx._primitives.running_max import running_max
from gradtx._primitives.scaling import scale, scale_by_learning_rate, scale_by_rms
from gradtx._primitives.weight_decay import add_decayed_weights, decoupled_weight_decay
from gradtx.interop._nadam import scheduled_nesterov

Group = dict[str, Any]


class harmonic_decay(Schedule):
    r"""PyTorch's Adagrad's learning rate, $\eta / (1 + \gamma c)$ after $c$ completed steps.

    Args:
        learning_rate: $\eta$.
        lr_decay: $\gamma$.
    """

    learning_rate: Any = leaf_field()
    lr_decay: Any = leaf_field(default=0.0)

    def __call__(self, count: Any) -> Any:
        return self.learning_rate / (1.0 + count * self.lr_decay)


class eps_of_raw_root(Schedule):
    r"""PyTorch's RAdam adds its epsilon before the bias is corrected: $\epsilon / \sqrt{1 - b_2^{c + 1}}$ behind it.

    Args:
        eps: $\epsilon$.
        b2: the decay of the second moment.
    """

    eps: Any = leaf_field()
    b2: float

    def __call__(self, count: Any) -> Any:
        steps = jnp.asarray(count + 1, jnp.result_type(float))
        return self.eps / jnp.sqrt(-jnp.expm1(steps * math.log(self.b2)))


def _adam(g: Group) -> list[Any]:
    decay, decoupled = _f(g["weight_decay"]), g.get("decoupled_weight_decay", False)
    return [
        *([add_decayed_weights(decay)] if decay and not decoupled else []),
        ema_first_moment(_f(g["betas"][0])),
        ema_second_moment(_f(g["betas"][1])),
        *([running_max()] if g["amsgrad"] else []),
        bias_correction(),
        scale_by_rms(_f(g["eps"])),
        *([decoupled_weight_decay(decay)] if decay and decoupled else []),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _adamax(g: Group) -> list[Any]:
    return [
        *_l2(g),
        ema_first_moment(_f(g["betas"][0])),
        bias_correction(),
        scale_by_infinity_norm(_f(g["betas"][1]), _f(g["eps"])),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _radam(g: Group) -> list[Any]:
    b1, b2 = (_f(b) for b in g["betas"])
    decay, decoupled = _f(g["weight_decay"]), g.get("decoupled_weight_decay", False)
    return [
        *([add_decayed_weights(decay)] if decay and not decoupled else []),
        ema_first_moment(b1),
        ema_second_moment_of_length(b2),
        bias_correction(),
        scale_by_rectified_rms(eps_of_raw_root(_f(g["eps"]), b2)),
        *([decoupled_weight_decay(decay)] if decay and decoupled else []),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _nadam(g: Group) -> list[Any]:
    b1, b2 = (_f(b) for b in g["betas"])
    decay, decoupled = _f(g["weight_decay"]), g.get("decoupled_weight_decay", False)
    return [
        *([add_decayed_weights(decay)] if decay and not decoupled else []),
        ema_first_moment(b1),
        scheduled_nesterov(b1, _f(g["momentum_decay"])),
        ema_second_moment(b2),
        bias_correction(),
        scale_by_rms(_f(g["eps"])),
        *([decoupled_weight_decay(decay)] if decay and decoupled else []),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _sgd(g: Group) -> list[Any]:
    momentum, dampening = _f(g["momentum"]), _f(g["dampening"])
    return [
        *_l2(g),
        *([trace(momentum)] if momentum else []),
        *([nesterov()] if momentum and g["nesterov"] else []),
        *([scale(1.0 - dampening)] if momentum and dampening else []),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _rmsprop(g: Group) -> list[Any]:
    estimator = ema_centered_moment if g["centered"] else ema_second_moment
    return [
        *_l2(g),
        estimator(_f(g["alpha"])),
        scale_by_rms(_f(g["eps"])),
        *([trace(_f(g["momentum"]))] if _f(g["momentum"]) else []),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _adagrad(g: Group) -> list[Any]:
    rate, lr_decay = _f(g["lr"]), _f(g["lr_decay"])
    return [
        *_l2(g),
        sum_of_squares(_f(g["initial_accumulator_value"])),
        scale_by_rms(_f(g["eps"])),
        scale_by_learning_rate(harmonic_decay(rate, lr_decay) if lr_decay else rate),
    ]


def _adadelta(g: Group) -> list[Any]:
    rho, eps = _f(g["rho"]), _f(g["eps"])
    return [
        *_l2(g),
        ema_second_moment(rho),
        scale_by_rms(eps=0.0, eps_root=eps),
        scale_by_delta_rms(rho, eps),
        scale_by_learning_rate(_f(g["lr"])),
    ]


def _rprop(g: Group) -> list[Any]:
    (minus, plus), (smallest, largest) = g["etas"], g["step_sizes"]
    return [scale_by_rprop(_f(g["lr"]), _f(minus), _f(plus), _f(smallest), _f(largest)), scale(-1.0)]


def _l2(g: Group) -> list[Any]:
    decay = _f(g["weight_decay"])
    return [add_decayed_weights(decay)] if decay else []


CHAINS = {
    "Adam": _adam,
    "AdamW": _adam,
    "Adamax": _adamax,
    "NAdam": _nadam,
    "RAdam": _radam,
    "SGD": _sgd,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Rprop": _rprop,
}
_TELLING = {"dampening": "SGD", "lr_decay": "Adagrad", "centered": "RMSprop", "etas": "Rprop", "rho": "Adadelta"}


def transform_from_torch(source: Any, *, names: Any = None, kind: str | None = None) -> Chain | Groups:
    """The gradtx chain that does what a `torch.optim` optimizer does.

    Learning rates are those of the moment: what a scheduler of PyTorch's would make of them follows from
    `tx.replace(learning_rate=schedule)`. Flags of speed (`foreach`, `fused`, `capturable`) mean nothing here.

    Args:
        source: an optimizer (`Adam`, `AdamW`, `Adamax`, `NAdam`, `RAdam`, `SGD`, `RMSprop`, `Adagrad`, `Adadelta`, `Rprop`), or its
            state dict.
        names: which leaf is which parameter, as for `from_torch`; needed where parameter groups differ.
        kind: the optimizer's class, if a state dict of an old PyTorch cannot tell Adam from AdamW.

    Returns:
        A chain; where parameter groups differ, one for each in `by_path`.

    Raises:
        TypeError: the optimizer has no counterpart.
        ValueError: the groups differ, and `names` does not say which leaves they hold.
    """
    caller = "transform_from_torch"
    kind, groups = identify(source, kind, caller)
    chains = [_chain(kind, group) for group in groups]
    if all(tx == chains[0] for tx in chains):
        return chains[0]
    if names is None:
        raise ValueError(
            f"{caller}: the {len(groups)} parameter groups differ: give names=, which leaf is which parameter"
        )
    paths = _paths(names, groups, caller)
    return by_path(
        {
            re.compile("|".join(re.escape(paths[i]) for i in group["params"])): tx
            for group, tx in zip(groups, chains, strict=True)
            if group["params"]
        }
    )


def _chain(kind: str, group: Group) -> Chain:
    return chain(*([scale(-1.0)] if group.get("maximize") else []), *CHAINS[kind](group))


def _paths(names: Any, groups: list[Group], caller: str) -> dict[int, str]:
    """For each of PyTorch's numbers, the path of its leaf."""
    from gradtx.interop._names import correspondence

    paths = list(names)
    if isinstance(names, Sequence) and isinstance(names, str):
        paths = [names]
    found = correspondence(paths, groups, names, None, [np.zeros(())] * len(paths), caller)
    return dict(zip(found.ids, paths, strict=True))


def identify(source: Any, kind: str | None, caller: str) -> tuple[str, list[Group]]:
    """The name of the optimizer's class, and its parameter groups as a state dict has them."""
    if not isinstance(source, dict):
        if not hasattr(source, "state_dict"):
            raise TypeError(f"{caller}: expected a torch optimizer or its state dict, got a {type(source).__name__}")
        kind = kind or type(source).__name__
        source = source.state_dict()
    if not {"state", "param_groups"} <= set(source):
        raise TypeError(
            f"{caller}: expected the state dict of a torch optimizer, got the keys {sorted(map(str, source))}"
        )
    groups = source["param_groups"]
    if kind is None:
        kind = next((name for key, name in _TELLING.items() if key in groups[0]), None)
    if kind is None and {"betas", "amsgrad"} <= set(groups[0]):
        if "decoupled_weight_decay" not in groups[0] and any(_f(g["weight_decay"]) for g in groups):
            raise ValueError(f"{caller}: this state dict does not say whether it is Adam's or AdamW's: kind='AdamW'")
        kind = "Adam"
    if kind is None and "momentum_decay" in groups[0]:
        kind = "NAdam"
    if kind is None and "betas" in groups[0]:
        largest = any("exp_inf" in entry for entry in source["state"].values())
        kind = "Adamax" if largest else "RAdam" if "decoupled_weight_decay" in groups[0] else None
    if kind not in CHAINS:
        raise TypeError(f"{caller}: expected one of {', '.join(CHAINS)}, got {kind or sorted(groups[0])}")
    decoupled = {"decoupled_weight_decay": True} if kind == "AdamW" else {}
    return kind, [{**group, **decoupled} for group in groups]


def _f(number: Any) -> float:
    """A hyperparameter as a float; PyTorch allows tensors of one element."""
    return float(number)
