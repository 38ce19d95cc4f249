"""Adam's later relatives, and caution around it."""

import optax

import gradtx
from rows.row import Row, matrices_only

_RATES = {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9}
_EPS = {"eps": 1e-2, "eps_root": 1e-2}
_DECAY = {"weight_decay": 0.2, "mask": matrices_only}
_BASE = {"learning_rate": 0.1, "weight_decay": 0.1}


def cautious_adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, mask=None):
    """The stages in the paper's order."""
    *direction, rate = gradtx.adam(learning_rate, b1, b2, eps).stages
    return gradtx.chain(*direction, gradtx.cautious(), gradtx.decoupled_weight_decay(weight_decay, mask), rate)


def adamw_cautious_decay(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, mask=None):
    *direction, rate = gradtx.adam(learning_rate, b1, b2, eps).stages
    return gradtx.chain(*direction, gradtx.cautious_weight_decay(weight_decay, mask), rate)


ROWS = [
    Row(
        "ademamix",
        gradtx.ademamix,
        optax.contrib.ademamix,
        {**_RATES, "b3": 0.9, "alpha": 2.0, **_EPS, "mu_dtype": "bfloat16", **_DECAY},
        _BASE,
    ),
    Row(
        "adopt",
        gradtx.adopt,
        optax.contrib.adopt,
        {
            **_RATES,
            "eps": 3.0,
            "mu_dtype": "bfloat16",
            "nesterov": True,
            "use_clipping": False,
            "clip_value_fn": gradtx.schedules.constant_schedule(0.5),
        },
        {"learning_rate": 0.1},
        no_complex="complex numbers have no order to clip in",
    ),
    Row(
        "adan",
        gradtx.adan,
        optax.adan,  # which has 1 - b2 for b2: the same only where that is 0.5
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "b3": 0.9, **_EPS, **_DECAY},
        {**_BASE, "b2": 0.5},
    ),
    Row(
        "optimistic_adam_v2",
        gradtx.optimistic_adam_v2,
        optax.optimistic_adam_v2,
        {**_RATES, "alpha": 0.5, "beta": 0.5, **_EPS, "mu_dtype": "bfloat16", "nesterov": False},
        {"learning_rate": 0.1},
    ),
    Row(
        "stable_adamw",
        gradtx.stable_adamw,
        None,
        {**_RATES, **_EPS, "mu_dtype": "bfloat16", **_DECAY},
        _BASE,
    ),
    Row(
        "mars",
        gradtx.mars,
        None,
        {**_RATES, **_EPS, "mu_dtype": "bfloat16", **_DECAY, "gamma": 0.1, "max_norm": 10.0},
        _BASE,
        mixes=True,  # clipped with an element of 1e20, one of 1e-28 is no float any more
    ),
    Row("cautious_adamw", cautious_adamw, None, {**_RATES, "eps": 1e-2, **_DECAY}, _BASE),
    Row("adamw_cautious_decay", adamw_cautious_decay, None, {**_RATES, "eps": 1e-2, **_DECAY}, _BASE),
]
PRIMITIVES = [
    Row(
        "cautious",
        lambda **kw: gradtx.chain(gradtx.adamw(**kw), gradtx.cautious()),
        None,
        {"learning_rate": 0.2},
        {"learning_rate": 0.1},
    ),
    Row(
        "capture_gradient",
        lambda **kw: gradtx.chain(gradtx.capture_gradient(), gradtx.clip_by_global_norm(**kw), gradtx.cautious()),
        None,
        {"max_norm": 0.1},
        {"max_norm": 0.5},
    ),
    Row(
        "cautious_weight_decay",
        gradtx.cautious_weight_decay,
        None,
        {"weight_decay": 0.2, "mask": matrices_only},
        {"weight_decay": 0.1},
    ),
    Row("clip_by_leaf_norm", gradtx.clip_by_leaf_norm, None, {"max_norm": 0.1}, {"max_norm": 0.5}),
    Row("variance_reduction", gradtx.variance_reduction, None, {"gamma": 0.5, "b1": 0.5}),
]
