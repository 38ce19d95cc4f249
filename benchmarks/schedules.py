"""How many digits schedules have: the largest relative error at any step, of gradtx's and Optax's, against float64.

    python -m benchmarks.schedules

Run it from the root of the repository, with the tests' oracles (tests/reference).
"""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
import optax

from benchmarks import common
from gradtx import schedules

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from reference.schedules import CASES, T

TARGET = 1e-6


def largest_error(found: np.ndarray, exact: np.ndarray) -> float:
    seen = exact != 0
    return float(np.max(np.abs(found[seen] - exact[seen]) / np.abs(exact[seen])))


def main() -> None:
    counts = np.arange(T + 1, dtype=np.int32)
    rows, worst = [], 0.0
    for name, (build, value) in CASES.items():
        exact = value(counts.astype(np.float64))
        errors = [
            largest_error(np.asarray(jax.jit(jax.vmap(build(library)))(counts), np.float64), exact)
            for library in (schedules, optax)
        ]
        worst = max(worst, errors[0])
        rows.append([name, *(f"{e:.1e}" for e in errors)])
    print(f"Largest relative error over {T:,} steps, float32.\n")
    print(common.table(["schedule", "gradtx", "Optax"], rows))
    print(f"\n{common.machine()}\n{common.verdict('largest relative error', worst, TARGET)}")


if __name__ == "__main__":
    main()
