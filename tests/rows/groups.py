"""Parameter groups."""

import jax
import optax

import gradtx
from rows.row import Row


def _optax_groups(learning_rate, bias_rate, max_norm):
    def label(path, leaf):
        return "biases" if jax.tree_util.keystr(path, simple=True, separator="/").endswith("bias") else "rest"

    return optax.partition(
        {
            "biases": optax.adamw(bias_rate, weight_decay=0.1),
            "rest": optax.chain(optax.clip_by_global_norm(max_norm), optax.sgd(learning_rate, 0.9)),
        },
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def _groups(learning_rate, bias_rate, max_norm):
    return gradtx.by_path(
        {
            "**/bias": gradtx.adamw(bias_rate, weight_decay=0.1),
            "**": gradtx.chain(gradtx.clip_by_global_norm(max_norm), gradtx.sgd(learning_rate, 0.9)),
        }
    )


ROWS = [
    Row(
        "by_path",
        _groups,
        _optax_groups,
        {"learning_rate": 0.2, "bias_rate": 0.05, "max_norm": 0.01},
        {"learning_rate": 0.1, "bias_rate": 0.1, "max_norm": 1.0},
    ),
    Row(
        "freeze",
        lambda learning_rate: gradtx.by_path({"**/bias": "frozen", "**": gradtx.sgd(learning_rate)}),
        None,
        {"learning_rate": 0.2},
        {"learning_rate": 0.1},
    ),
]
