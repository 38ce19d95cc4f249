"""The primitives, alone or in the shortest chain in which they mean something."""

import optax

import gradtx
from rows.row import Row, by_name, matrices_only

ROWS = [
    Row("ema_first_moment", gradtx.ema_first_moment, None, {"b1": 0.5, "dtype": "bfloat16"}),
    Row(
        "ema_second_moment",
        lambda **kw: gradtx.chain(gradtx.ema_second_moment(**kw), gradtx.scale_by_rms()),
        None,
        {"b2": 0.5, "initial": 0.5},
    ),
    Row(
        "ema_centered_moment",
        lambda **kw: gradtx.chain(gradtx.ema_centered_moment(**kw), gradtx.scale_by_rms(1e-3)),
        None,
        {"decay": 0.5, "initial": 0.5},
    ),
    Row(
        "sum_of_squares",
        lambda **kw: gradtx.chain(gradtx.sum_of_squares(**kw), gradtx.scale_by_rms()),
        None,
        {"initial": 0.5},
    ),
    Row("bias_correction", lambda: gradtx.chain(gradtx.ema_first_moment(), gradtx.bias_correction()), None, {}),
    Row(
        "scale_by_rms",
        lambda **kw: gradtx.chain(gradtx.ema_second_moment(), gradtx.scale_by_rms(**kw)),
        None,
        {"eps": 1e-2, "eps_root": 1e-2},
    ),
    Row(
        "running_max",
        lambda b2=0.999: gradtx.chain(
            gradtx.ema_first_moment(), gradtx.ema_second_moment(b2), gradtx.running_max(), gradtx.scale_by_rms()
        ),
        lambda **kw: optax.scale_by_amsgrad(bias_correction_mu=False, bias_correction_nu=False, **kw),
        {"b2": 0.5},
    ),
    Row(
        "running_max_corrected",
        lambda b2=0.999: gradtx.chain(
            gradtx.ema_second_moment(b2), gradtx.running_max(), gradtx.bias_correction(), gradtx.scale_by_rms()
        ),
        None,
        {"b2": 0.5},
    ),
    Row(
        "rectified",
        lambda b2=0.999, initial=0.0, **kw: gradtx.chain(
            gradtx.ema_second_moment_of_length(b2, initial), gradtx.scale_by_rectified_rms(**kw)
        ),
        None,
        {"b2": 0.99, "initial": 0.5, "eps": 1e-2, "eps_root": 1e-2, "threshold": 5.0},
        {"threshold": 4.0},
    ),
    Row(
        "scale_by_infinity_norm",
        gradtx.scale_by_infinity_norm,
        lambda **kw: optax.scale_by_adamax(b1=0.0, **kw),
        {"b2": 0.5, "eps": 1e-2},
    ),
    Row(
        "ema_belief_moment",
        lambda **kw: gradtx.chain(
            gradtx.ema_first_moment(), gradtx.ema_belief_moment(**kw), gradtx.bias_correction(), gradtx.scale_by_rms()
        ),
        lambda **kw: optax.scale_by_belief(eps=1e-8, **kw),
        {"b2": 0.5, "eps_root": 1e-2},
    ),
    Row(
        "additive_second_moment",
        lambda **kw: gradtx.chain(
            gradtx.additive_second_moment(**kw), gradtx.bias_correction(), gradtx.scale_by_rms(1e-3)
        ),
        lambda b2=0.999, initial=1e-6: optax.scale_by_yogi(b1=0.0, b2=b2, initial_accumulator_value=initial),
        {"b2": 0.5, "initial": 0.5},
    ),
    Row("trace", gradtx.trace, optax.trace, {"decay": 0.5, "accumulator_dtype": "bfloat16"}, {"decay": 0.9}),
    Row("nesterov", lambda: gradtx.chain(gradtx.trace(0.9), gradtx.nesterov()), lambda: optax.trace(0.9, True), {}),
    Row(
        "decoupled_weight_decay",
        gradtx.decoupled_weight_decay,
        optax.add_decayed_weights,
        {"weight_decay": 0.2, "mask": by_name},
        {"weight_decay": 0.1},
    ),
    Row(
        "add_decayed_weights",
        gradtx.add_decayed_weights,
        optax.add_decayed_weights,
        {"weight_decay": 0.2, "mask": matrices_only},
        {"weight_decay": 0.1},
    ),
    Row("scale", gradtx.scale, optax.scale, {"step_size": 0.2}, {"step_size": 0.1}),
    Row(
        "scale_by_learning_rate",
        gradtx.scale_by_learning_rate,
        optax.scale_by_learning_rate,
        {"learning_rate": 0.2, "flip_sign": False},
        {"learning_rate": 0.1},
    ),
    Row(
        "scale_by_schedule",
        gradtx.scale_by_schedule,
        optax.scale_by_schedule,
        {"step_size_fn": gradtx.schedules.linear_schedule(0.1, 1.0, 3)},
        {"step_size_fn": gradtx.schedules.linear_schedule(0.1, 1.0, 5)},
    ),
    Row(
        "clip",
        gradtx.clip,
        optax.clip,
        {"max_delta": 0.1},
        {"max_delta": 0.5},
        no_complex="complex numbers have no order",
    ),
    Row(
        "clip_by_global_norm",
        gradtx.clip_by_global_norm,
        optax.clip_by_global_norm,
        {"max_norm": 0.1},
        {"max_norm": 0.5},
    ),
    Row(
        "scale_by_trust_ratio",
        lambda **kw: gradtx.chain(gradtx.scale_by_trust_ratio(**kw), gradtx.scale(-0.1)),
        lambda mask=True, **kw: optax.chain(optax.masked(optax.scale_by_trust_ratio(**kw), mask), optax.scale(-0.1)),
        {"min_norm": 2.0, "trust_coefficient": 0.5, "eps": 0.1, "mask": matrices_only},
    ),
    Row(
        "scale_by_param_block_norm",
        lambda **kw: gradtx.chain(gradtx.scale_by_param_block_norm(**kw), gradtx.scale(-0.1)),
        lambda **kw: optax.chain(optax.scale_by_param_block_norm(**kw), optax.scale(-0.1)),
        {"min_scale": 2.0},
    ),
    Row(
        "scale_by_param_block_rms",
        lambda **kw: gradtx.chain(gradtx.scale_by_param_block_rms(**kw), gradtx.scale(-0.1)),
        lambda **kw: optax.chain(optax.scale_by_param_block_rms(**kw), optax.scale(-0.1)),
        {"min_scale": 2.0},
    ),
    Row("clip_by_block_rms", gradtx.clip_by_block_rms, optax.clip_by_block_rms, {"threshold": 0.1}, {"threshold": 0.5}),
    Row("identity", gradtx.identity, optax.identity, {}),
    Row(
        "scope",
        lambda **kw: gradtx.chain(gradtx.adam(0.1), gradtx.scope(gradtx.ema_first_moment(**kw))),
        None,
        {"b1": 0.5},
    ),
    Row(
        "scale_by_lion",
        gradtx.scale_by_lion,
        optax.scale_by_lion,
        {"b1": 0.5, "b2": 0.5, "mode": "refined", "smooth_beta": 0.5},
        {"mode": "smooth"},
        no_complex="complex numbers have no tanh here",
    ),
    Row(
        "scale_by_lion_refined",
        gradtx.scale_by_lion,
        optax.scale_by_lion,
        {"mode": "hard", "b1": 0.5},
        {"mode": "refined"},
        no_complex="complex numbers are not clipped one by one",
    ),
]
