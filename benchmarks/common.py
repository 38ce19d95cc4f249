"""What the tables share: parameter trees, a training step, interleaved timing, and Markdown."""

from __future__ import annotations

import os
import platform
import random
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx


def transformer(layers: int, width: int) -> dict[str, Any]:
    """The parameters of a decoder: 14 leaves a layer, of seven distinct shapes."""
    d = width
    shapes = {
        "norm_1": {"scale": (d,), "bias": (d,)},
        "attention": {"qkv": (d, 3 * d), "qkv_bias": (3 * d,), "out": (d, d), "out_bias": (d,)},
        "norm_2": {"scale": (d,), "bias": (d,)},
        "mlp": {"up": (d, 4 * d), "up_bias": (4 * d,), "down": (4 * d, d), "down_bias": (d,)},
        "layer_scale": {"attention": (d,), "mlp": (d,)},
    }
    return {
        f"layer_{i:02}": jax.tree.map(lambda s: jnp.full(s, 0.5), shapes, is_leaf=lambda s: isinstance(s, tuple))
        for i in range(layers)
    }


def count_parameters(params: Any) -> int:
    return sum(p.size for p in jax.tree.leaves(params))


def training_step(
    tx: Any, *, as_argument: bool = False, keywords: dict[str, Any] | None = None, out_shardings: Any = None
) -> Callable[..., Any]:
    """`(params, state, grads) -> (params, state)`, jitted and donated, with the library's own `apply_updates`.

    Args:
        tx: a gradtx or Optax transformation.
        as_argument: whether the transformation is a further, first argument instead of closed over.
        keywords: what every `update` is given.
        out_shardings: of what it returns, as `jax.jit` takes them.
    """
    options = {} if out_shardings is None else {"out_shardings": out_shardings}
    apply_updates = gradtx.apply_updates if isinstance(tx, gradtx.Transform) else optax.apply_updates

    def step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, **(keywords or {}))
        return apply_updates(params, updates), state

    if as_argument:
        return jax.jit(step, donate_argnums=(1, 2), **options)
    return jax.jit(lambda params, state, grads: step(tx, params, state, grads), donate_argnums=(0, 1), **options)


def run_by_a_user(lib: Any, storage: Any, *last: Any) -> Any:
    """Clipping, a schedule, groups: what a training run has around AdamW."""
    rate = lib.schedules.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)
    groups = lib.by_path({"**/bias": lib.adam(rate), "**": lib.adamw(rate, weight_decay=0.1)})
    return lib.chain(lib.clip_by_global_norm(1.0), lib.with_storage(groups, storage), *last)


class Compilations:
    """Counts what JAX compiles while it is entered."""

    def __enter__(self) -> Compilations:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event: str, *args: Any, **kwargs: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *exc: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def interleaved(contenders: dict[str, Callable[[], float]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Measure each contender once a round, in a new random order each time: noise that lasts hits all of them."""
    rng = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in rng.sample(list(contenders), len(contenders)):
            seconds[name].append(contenders[name]())
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> str:
    """Median and quartiles of the ratios within each round."""
    low, middle, high = quartiles([a / b for a, b in zip(numerator, denominator, strict=True)])
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def median_of_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---'] + ['---:'] * (len(header) - 1))}|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def verdict(name: str, value: float, target: float) -> str:
    """One line that says openly whether a target was met."""
    return f"{name}: {value:.3g}, target at most {target:g}: {'met' if value <= target else 'MISSED'}"


def machine(*packages: str) -> str:
    """The machine and the versions in one line."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "optax", *packages))
    where = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    return f"{where}; Python {platform.python_version()}, {versions}"
