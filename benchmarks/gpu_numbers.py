"""Ten steps on the GPU and the same ten on the CPU: how many numbers of parameters and state differ, and how far.

    JAX_PLATFORMS=cuda,cpu python -m benchmarks.gpu_time --numbers

Random bits for rounding are integers that both devices compute alike, so words may differ only where a float32 that is
a unit in the last place off crosses a boundary between two codes. With other bits about half of them would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from benchmarks import common

STEPS = 10
CLOSE = {"float32": 4, "bfloat16": 1, "uint32": 1, "uint16": 1, "int8": 1, "int16": 1}  # units, or codes


def cases() -> dict[str, tuple[Any, Any]]:
    """Transformations, and the dtype of their parameters."""
    half, wide = jnp.bfloat16, jnp.float32
    stored = {f"adamw, {s}": (gradtx.adamw(1e-3, storage=s), wide) for s in ("bfloat16", "half", "quarter", "log16")}
    rounded = {
        f"adamw, {s}, stochastic rounding": (
            gradtx.chain(gradtx.adamw(1e-3, storage=s), gradtx.stochastic_rounding()),
            half,
        )
        for s in ("float32", "bfloat16", "half", "quarter")
    }
    kept = {
        name: (gradtx.chain(gradtx.adamw(1e-3), stage), half)
        for name, stage in {
            "adamw, Kahan": gradtx.compensated(),
            "adamw, 32-bit weights": gradtx.master_weights(32),
            "adamw, 24-bit weights": gradtx.master_weights(24),
        }.items()
    }
    whole = {f"clipping, schedule, groups, {s}": (common.run_by_a_user(gradtx, s), wide) for s in ("half", "quarter")}
    others = {"sgd, momentum": (gradtx.sgd(1e-2, 0.9), wide), "lion": (gradtx.lion(1e-4), wide)}
    others["noisy_sgd"] = (gradtx.noisy_sgd(1e-2), wide)
    return {"adamw": (gradtx.adamw(1e-3), wide), **stored, **rounded, **kept, **whole, **others}


def trained(tx: Any, params: dict[str, np.ndarray], grads: list[dict[str, np.ndarray]], device: Any) -> tuple[Any, Any]:
    """Parameters and state, as NumPy arrays, after a step for each of the gradients."""
    with jax.default_device(device):
        here = jax.device_put(params, device)
        state = tx.init(here)
        step = common.training_step(tx)
        for g in grads:
            here, state = step(here, state, jax.device_put(g, device))
        found = {x.device for x in jax.tree.leaves((here, state))}
        if found != {device}:
            raise RuntimeError(f"expected everything on {device}, found {found}")
        return jax.tree.map(np.asarray, (here, state))


def fields(name: str, x: np.ndarray) -> list[np.ndarray]:
    """What an array holds as integers that grow with the value: one array, or one for each field of a packed word."""
    if name == "mu_nu" and x.dtype == np.uint32:
        return [_by_magnitude(x >> 16, 15), (x & 0xFFFF).astype(np.int64)]
    if name == "mu_nu":
        level = (x & 127).astype(np.int64)
        return [level - 128 * (level > 63), (x >> 7).astype(np.int64)]
    if x.dtype == np.uint16 and name == "mu":  # log16 with a sign
        return [_by_magnitude(x, 15)]
    if np.issubdtype(x.dtype, np.integer):
        return [x.astype(np.int64)]
    bits = 8 * x.dtype.itemsize
    return [_by_magnitude(x.view(f"uint{bits}"), bits - 1)]


def _by_magnitude(x: np.ndarray, bits: int) -> np.ndarray:
    wide = x.astype(np.int64)
    magnitude = wide & ((1 << bits) - 1)
    return np.where(wide >> bits, -magnitude, magnitude)


def by_slot(tx: Any, params: Any, state: Any) -> dict[str, list[np.ndarray]]:
    """Arrays of more than one element, by slot."""
    found: dict[str, list[np.ndarray]] = {"parameters": jax.tree.leaves(params)}
    kept: dict[str, list[np.ndarray]] = {}
    for path, x in jax.tree.leaves_with_path(state):
        if np.size(x) > 1:
            names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
            kept.setdefault(names[0], []).append(np.asarray(x))
    if kept.pop("low_bits", None) or kept.pop("residual", None):  # they carry into the parameters: compared together
        exact = gradtx.master_parameters(tx, state, params)
        found["exact parameters"] = [np.asarray(x) for x in jax.tree.leaves(exact)]
    found.update(kept)
    return found


def rows_of(case: str, tx: Any, here: tuple[Any, Any], there: tuple[Any, Any]) -> list[list[str]]:
    rows = []
    mine, other = by_slot(tx, *here), by_slot(tx, *there)
    for slot in mine:
        for dtype in sorted({x.dtype.name for x in mine[slot]}):
            pairs = [(a, b) for a, b in zip(mine[slot], other[slot], strict=True) if a.dtype.name == dtype]
            apart = [
                np.max([np.abs(p - q).ravel() for p, q in zip(fields(slot, a), fields(slot, b), strict=True)], axis=0)
                for a, b in pairs
            ]
            distance = np.concatenate(apart)
            limit = CLOSE.get(dtype, 0)
            counts = [(distance > 0).sum(), (distance > limit).sum()]
            rms = ""
            if np.issubdtype(pairs[0][0].dtype, np.floating) or dtype == "bfloat16":
                a, b = (np.concatenate([np.asarray(x[i], np.float64).ravel() for x in pairs]) for i in (0, 1))
                rms = f"{np.abs(a - b).max() / (np.sqrt(np.mean(b * b)) + 1e-300):.1e}"
            share = f"{100 * counts[0] / distance.size:.4f}%"
            rows.append([case, slot, dtype, f"{distance.size:,}", share, limit, f"{counts[1]:,}", distance.max(), rms])
    return [[str(cell) for cell in row] for row in rows]


def check(say: Callable[[str], None], only: list[str] | None, *, small: bool) -> None:
    """Print a row for each slot of each case, or of those whose names contain one of some words."""
    device, reference = jax.devices()[0], jax.devices("cpu")[-1]
    side = 128 if small else 1024
    rng = np.random.default_rng(0)
    shapes = {"matrix": (side, side), "wide": (side // 4, side // 2, 3), "odd": (side * 17 + 1,), "bias": (64,)}
    start = {k: rng.normal(size=s).astype(np.float32) * 0.1 for k, s in shapes.items()}
    sizes = 10.0 ** -rng.random(STEPS)
    grads = [{k: (a * rng.normal(size=s)).astype(np.float32) for k, s in shapes.items()} for a in sizes]
    say(f"## {STEPS} steps on {device} and on {reference}\n")
    header = ["", "slot", "dtype", "elements", "differ", "limit", "more than that", "at most", "largest / rms"]
    say(common.table(header, []))
    for name, (tx, dtype) in cases().items():
        if only and not any(word in name for word in only):
            continue
        params, given = jax.tree.map(lambda x, d=dtype: np.asarray(x, d), (start, grads))
        try:
            found = [trained(tx, params, given, where) for where in (device, reference)]
            for row in rows_of(name, tx, *found):
                say(f"| {' | '.join(row)} |")
        except Exception as error:
            say(f"{name}: not compared: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    say("\nunits in the last place of floats, codes of words (of the field that is further apart)\n")
