"""Stages that mend, gather or clip an update."""

import optax

import gradtx
from rows.row import Row


def _nonnegative(module, step_size):
    """From parameters that are negative too, with steps of both signs."""
    return module.chain(module.scale(step_size), module.keep_params_nonnegative())


ROWS = [
    Row("centralize", gradtx.centralize, optax.centralize, {}),
    Row("set_to_zero", gradtx.set_to_zero, optax.set_to_zero, {}),
    Row("zero_nans", gradtx.zero_nans, optax.zero_nans, {}),
    Row(
        "keep_params_nonnegative",
        lambda step_size: _nonnegative(gradtx, step_size),
        lambda step_size: _nonnegative(optax, step_size),
        {"step_size": -0.2},
        {"step_size": -0.5},
        no_complex="complex parameters have no sign",
    ),
    Row(
        "normalize_by_update_norm",
        gradtx.normalize_by_update_norm,
        optax.normalize_by_update_norm,
        {"scale_factor": 0.5, "eps": 1.0},
        joint=True,
    ),
    Row("apply_every", gradtx.apply_every, optax.apply_every, {"k": 5}, {"k": 2}),
    Row(
        "adaptive_grad_clip",
        gradtx.adaptive_grad_clip,
        optax.adaptive_grad_clip,
        {"clipping": 0.2, "eps": 4.0},
        {"clipping": 0.1},
    ),
]
