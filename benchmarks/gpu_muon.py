"""Muon's step on a GPU, by the precision of its products, against Optax's; how far the updates are from full float32's.

    python -m benchmarks.gpu_muon

Two matrices, 4096 x 4096 and 4096 x 1024; steps donated, ten in a measurement, rounds interleaved.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradtx
from benchmarks import common

STEPS, ROUNDS = 10, 8


def main() -> None:
    keys = jax.random.split(jax.random.key(0))
    params = {"a": jax.random.normal(keys[0], (4096, 4096)), "b": jax.random.normal(keys[1], (4096, 1024))}
    grads = jax.tree.map(lambda p: p * 0.01, params)
    contenders: dict[str, Any] = {
        "optax": optax.contrib.muon(1e-3),
        "gradtx": gradtx.muon(1e-3),
        'gradtx, ns_dtype="float32"': gradtx.muon(1e-3, ns_dtype="float32"),
        'gradtx, ns_dtype="bfloat16"': gradtx.muon(1e-3, ns_dtype="bfloat16"),
    }
    updates, timed = {}, {}
    for name, tx in contenders.items():
        updates[name] = np.asarray(jax.jit(tx.update)(grads, tx.init(params), params)[0]["a"])
        timed[name] = _timed(common.training_step(tx), tx, params, grads)
        timed[name]()
    seconds = common.interleaved(timed, ROUNDS)
    exact = updates['gradtx, ns_dtype="float32"']
    rows = [
        [
            name,
            f"{1e3 * float(np.median(values)) / STEPS:.2f}",
            common.ratios(values, seconds["optax"]),
            f"{np.linalg.norm(updates[name] - exact) / np.linalg.norm(exact):.1e}",
        ]
        for name, values in seconds.items()
    ]
    print(f"{jax.devices()[0].device_kind}; {common.machine()}\n")
    print(common.table(["", "ms", "over Optax's", "from full float32's update"], rows))


def _timed(step: Any, tx: Any, params: Any, grads: Any) -> Any:
    held = [jax.tree.map(jnp.copy, params), tx.init(params)]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            held[:] = step(*held, grads)
        jax.block_until_ready(held)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
