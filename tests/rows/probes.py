"""Probes: they change no update, only what the state says."""

import gradtx
from rows.row import Row

HIDDEN = {"per": "a probe changes nothing but the state", "name": "of the metric"}

ROWS = [
    Row(
        "reduce_on_plateau",
        gradtx.reduce_on_plateau,
        None,  # test_plateau.py compares its decisions with Optax's, for values that change
        {"factor": 0.25, "patience": 2, "cooldown": 2, "accumulation_size": 2, "min_scale": 0.6},
        {"factor": 0.5, "patience": 1},
        keywords={"value": 1.0},
        joint=True,
    ),
    Row(
        "probed",
        lambda per="tree", name="gradient_norm", max_norm=1.0: gradtx.chain(
            gradtx.gradient_norm(per, name),
            gradtx.fraction_clipped(gradtx.clip_by_global_norm(max_norm)),
            gradtx.adam(0.1, eps=0.5),
            gradtx.second_moment_statistics(),
            gradtx.update_ratio(),
            gradtx.update_cosine(),
        ),
        None,
        {"max_norm": 0.1, "per": "leaf", "name": "other"},
        hidden=HIDDEN,
        joint=True,
    ),
]
