"""Optimizers that learn the curvature from differences; test_lbfgs.py has their line searches."""

import gradtx
from rows.row import Row

FIXED = "the parameters stand still in that test, and show no curvature to remember"

OPTIMIZERS = [
    Row(
        "lbfgs",
        gradtx.lbfgs,
        None,  # random gradients are no function's: test_lbfgs.py compares with Optax where they are
        {"learning_rate": 0.2, "memory_size": 3, "scale_init_precond": False},
        {"learning_rate": 0.1, "linesearch": None},
        hidden={"memory_size": FIXED},
        joint=True,
    ),
]
PRIMITIVES = [
    Row(
        "scale_by_lbfgs",
        gradtx.scale_by_lbfgs,
        None,
        {"memory_size": 3, "scale_init_precond": False},
        hidden={"memory_size": FIXED},
    ),
]
