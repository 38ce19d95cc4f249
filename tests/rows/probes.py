"""Probes: they change no update, only what the state says."""

import gradtx
from rows.row import Row

HIDDEN = {"per": "a probe changes nothing but the state", "name": "of the metric"}

ROWS = [
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
