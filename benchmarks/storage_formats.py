"""How far Adam's updates are from float32's when its moments take fewer bytes, and what a step costs on this CPU.

    python -m benchmarks.storage_formats [--steps 2000] [--rounds 9] [--only fidelity|speed] [--sources digits gaussian]

Fidelity: both states see the same gradients; printed are the relative error of the update and its cosine with that of
float32, averaged over the steps after the first hundred. `digits` are the gradients of a small network on
scikit-learn's digits, trained with float32's updates; the others are synthetic, of rms 1e-6 to 1 in random order.

Speed: AdamW on one leaf of 16.8M parameters, donated, interleaved with Optax's and torch's fused one.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# torch's idle threads would otherwise spin beside XLA's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common
from gradtx._core import random_bits
from gradtx._storage import bits, block8, float16, log16, packed16, packed32, ratio8

LEARNING_RATE, B1, B2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 1e-2
ONE = np.float32(1)
SKIP = 100


class Format(NamedTuple):
    """`encode(m, v, scale, random)` gives a tree of arrays, from which `decode(tree, scale)` gives (m, v)."""

    nbytes: float
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    random: Callable[..., jax.Array] = random_bits.weyl


def nearest(dtype: Any, root: bool = False) -> Format:
    """Two separate arrays of a narrow float, rounded to nearest; v by its root if asked."""

    def encode(m: Any, v: Any, scale: Any, random: Any) -> Any:
        return m.astype(dtype), (jnp.sqrt(v) if root else v).astype(dtype)

    def decode(parts: Any, scale: Any) -> Any:
        m, v = (x.astype(jnp.float32) for x in parts)
        return m, jnp.square(v) if root else v

    return Format(2 * jnp.dtype(dtype).itemsize, encode, decode)


def ratio_and_float(ratio_bits: int) -> Format:
    """One uint32: a companded ratio of so many bits beside v in the rest."""
    shift = ratio_bits - 1
    half = np.float32(2**shift)

    def split(code: Any, scale: Any) -> Any:
        return bits.from_bits(code << shift) * scale

    def encode(m: Any, v: Any, scale: Any, random: Any) -> Any:
        code = (bits.bits_of(v / scale) + (random >> (32 - shift))) >> shift
        ratio = half * m / (jnp.abs(m) + 0.25 * jnp.sqrt(split(code, scale)) + bits.TINY)
        fraction = (random >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)
        level = jnp.clip(jnp.floor(ratio + fraction), 1 - half, half - 1).astype(jnp.int32).astype(jnp.uint32)
        return (code << ratio_bits) | (level & np.uint32(2**ratio_bits - 1))

    def decode(word: Any, scale: Any) -> Any:
        level = bits.signed(word, ratio_bits)
        v = split(word >> ratio_bits, scale)
        return 0.25 * level / (half - jnp.abs(level)) * jnp.sqrt(v), v

    return Format(4, encode, decode)


def one_byte(ratio_bits: int) -> Format:
    """Ratio and a power of two (every second or fourth power) for v: what fits one byte."""
    half, levels = 2 ** (ratio_bits - 1), 2 ** (8 - ratio_bits)
    octaves = 120 // (levels - 2)
    step, first = octaves << 23, (127 - 80) << 23

    def value(code: Any, scale: Any) -> Any:
        exponent = jnp.maximum(code - 1, 0) * step + first
        return jnp.where(code == 0, 0, jax.lax.bitcast_convert_type(exponent, jnp.float32)) * scale

    def encode(m: Any, v: Any, scale: Any, random: Any) -> Any:
        low = jnp.clip((bits.bits_of(v / scale).astype(jnp.int32) - first) // step + 1, 1, levels - 2)
        below, above = value(low, scale), value(low + 1, scale)
        up = (v - below) / (above - below) > (random >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)
        code = jnp.where(v == 0, 0, low + up)
        ratio = half * m / (jnp.abs(m) + 0.25 * jnp.sqrt(value(code, scale)) + bits.TINY)
        level = bits.integer_bits(jnp.clip(ratio, 1 - half, half - 1), random)
        return (code.astype(jnp.uint8) << ratio_bits) | (level & np.uint32(2**ratio_bits - 1)).astype(jnp.uint8)

    def decode(word: Any, scale: Any) -> Any:
        word = word.astype(jnp.uint32)
        level, v = bits.signed(word, ratio_bits), value((word >> ratio_bits).astype(jnp.int32), scale)
        return 0.25 * level / (half - jnp.abs(level)) * jnp.sqrt(v), v

    return Format(1, encode, decode)


FORMATS = {
    "bfloat16 + bfloat16, nearest": nearest(jnp.bfloat16),
    "bfloat16 + bfloat16, stochastic (murmur)": Format(
        4,
        lambda m, v, s, h: (float16.encode_bfloat16(m, h), float16.encode_bfloat16(v, h)),
        lambda parts, s: tuple(x.astype(jnp.float32) for x in parts),
        random_bits.murmur,
    ),
    "log16 + log16": Format(
        4,
        lambda m, v, s, h: (log16.encode_signed(m, ONE, h), log16.encode_unsigned(v, s, h)),
        lambda parts, s: (log16.decode_signed(parts[0], ONE), log16.decode_unsigned(parts[1], s)),
    ),
    "packed32 (half)": Format(4, packed32.encode, packed32.decode),
    "packed32, murmur": Format(4, packed32.encode, packed32.decode, random_bits.murmur),
    "ratio 12 bits, v 20 bits": ratio_and_float(12),
    "packed16 (quarter)": Format(2, packed16.encode, packed16.decode),
    "packed16, murmur": Format(2, packed16.encode, packed16.decode, random_bits.murmur),
    "block8 + block8": Format(
        2 + 8 / block8.BLOCK,
        lambda m, v, s, h: (block8.encode_signed(m, h), block8.encode_root(v, h)),
        lambda parts, s: (block8.decode_signed(*parts[0]), block8.decode_root(*parts[1])),
    ),
    "fp8 e4m3 of m and of the root of v, nearest": nearest(jnp.float8_e4m3fn, root=True),
    "fp8 e5m2 of m and of the root of v, nearest": nearest(jnp.float8_e5m2, root=True),
    "one byte: ratio 3 bits, v 5 bits": one_byte(3),
    "one byte: ratio 4 bits, v 4 bits": one_byte(4),
    "ratio8 beside v in float32": Format(
        5,
        lambda m, v, s, h: (ratio8.encode(m, jnp.sqrt(v), h), v),
        lambda parts, s: (ratio8.decode(parts[0], jnp.sqrt(parts[1])), parts[1]),
    ),
}


def rates(t: jax.Array) -> list[jax.Array]:
    """The share of step t in each debiased mean."""
    weights = (-jnp.expm1(t.astype(jnp.float32) * np.float32(np.log1p(b - 1))) for b in (B1, B2))
    return [jnp.minimum((1 - b) / w, 1).astype(jnp.float32) for b, w in zip((B1, B2), weights, strict=True)]


def moments(t: jax.Array, g: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    q1, q2 = rates(t)
    return m + q1 * (g - m), v + q2 * (g * g - v)


def step(form: Format, t: jax.Array, g: jax.Array, parts: Any, scale: jax.Array) -> tuple[Any, ...]:
    """One step of the stored moments: (m, v) as stored, the parts, the scale."""
    m, v = form.decode(parts, scale)
    scale = bits.next_scale(scale, 1 - rates(t)[1])
    parts = form.encode(*moments(t, g, m, v), scale, form.random(0, t, 0, g.shape))
    return *form.decode(parts, scale), parts, scale


def direction(m: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.where(v > 0, m / (jnp.sqrt(v) + EPS * 1e-6), 0)


class Gradients(NamedTuple):
    """`gradient(params, t)` at each step; the parameters follow float32's updates."""

    size: int
    gradient: Callable[[jax.Array, jax.Array], jax.Array]
    start: jax.Array


def synthetic(change: Callable[..., Any], size: int = 4096) -> Gradients:
    scales = 10.0 ** jax.random.permutation(jax.random.key(7), jnp.linspace(-6, 0, size))

    def gradient(params: Any, t: Any) -> Any:
        noise, which = jax.random.split(jax.random.fold_in(jax.random.key(1), t))
        return scales * change(jax.random.normal(noise, (size,)), jax.random.uniform(which, (size,)), t)

    return Gradients(size, gradient, jnp.zeros(size))


def digits() -> Gradients:
    """A network of 64-64-10 on batches of 64: gradients differ by orders of magnitude between leaves and steps."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target)
    shapes = [(64, 64), (64,), (64, 10), (10,)]
    sizes = np.cumsum([int(np.prod(s)) for s in shapes])

    def loss(flat: jax.Array, t: jax.Array) -> jax.Array:
        w1, c1, w2, c2 = (x.reshape(s) for x, s in zip(jnp.split(flat, sizes[:-1]), shapes, strict=True))
        batch = jax.random.randint(jax.random.fold_in(jax.random.key(3), t), (64,), 0, len(images))
        logits = jax.nn.relu(images[batch] @ w1 + c1) @ w2 + c2
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    start = jax.random.normal(jax.random.key(0), (int(sizes[-1]),)) * 0.1
    return Gradients(int(sizes[-1]), jax.grad(loss), start)


SOURCES = {
    "digits": digits,
    "gaussian": lambda: synthetic(lambda z, u, t: z),
    "with signal": lambda: synthetic(lambda z, u, t: z + 0.5),
    "90% zeros": lambda: synthetic(lambda z, u, t: z * (u < 0.1)),
    "99% zeros": lambda: synthetic(lambda z, u, t: z * (u < 0.01)),
    "x1000 at half": lambda: synthetic(lambda z, u, t: z * jnp.where(t > 1000, 1000.0, 1.0)),
    "/100 at half": lambda: synthetic(lambda z, u, t: z * jnp.where(t > 1000, 0.01, 1.0)),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def fidelity(form: Format, source: Callable[[], Gradients], steps: int) -> tuple[jax.Array, jax.Array]:
    """(relative error, cosine) of the update, averaged over the steps."""
    size, gradient, params = source()

    def body(carry: Any, t: jax.Array) -> Any:
        params, parts, scale, m0, v0 = carry
        g = gradient(params, t)
        m, v, parts, scale = step(form, t, g, parts, scale)
        m0, v0 = moments(t, g, m0, v0)
        got, exact = direction(m, v), direction(m0, v0)
        norms = jnp.linalg.norm(got), jnp.linalg.norm(exact)
        params = params - LEARNING_RATE * exact
        return (params, parts, scale, m0, v0), (
            jnp.linalg.norm(got - exact) / norms[1],
            got @ exact / norms[0] / norms[1],
        )

    zeros = jnp.zeros(size)
    parts = form.encode(zeros, zeros, jnp.float32(1), jnp.zeros(size, jnp.uint32))
    _, figures = jax.lax.scan(body, (params, parts, jnp.float32(1), zeros, zeros), jnp.arange(1, steps + 1))
    return tuple(x[SKIP:].mean() for x in figures)  # type: ignore[return-value]


class Stored:
    """AdamW with its moments in a format; calling it gives the seconds of a step."""

    def __init__(self, form: Format, shape: tuple[int, ...], steps: int):
        def update(params: Any, state: Any, g: Any) -> Any:
            parts, scale, t = state
            m, v, parts, scale = step(form, t + 1, g, parts, scale)
            return params - LEARNING_RATE * (m / (jnp.sqrt(v) + EPS) + DECAY * params), (parts, scale, t + 1)

        zeros = jnp.zeros(shape)
        parts = form.encode(zeros, zeros, jnp.float32(1), jnp.zeros(shape, jnp.uint32))
        self.steps, self.held = steps, (jnp.ones(shape), (parts, jnp.float32(1), jnp.int32(0)))
        self._compile(update, shape)

    def _compile(self, update: Callable[..., Any], shape: tuple[int, ...]) -> None:
        self.g = jax.random.normal(jax.random.key(0), shape)
        self.run = jax.jit(update, donate_argnums=(0, 1)).lower(*self.held, self.g).compile()
        self.temp = self.run.memory_analysis().temp_size_in_bytes / self.g.size
        self()

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.steps):
            self.held = self.run(*self.held, self.g)
        jax.block_until_ready(self.held)
        return (time.perf_counter() - start) / self.steps


class Optax(Stored):
    def __init__(self, shape: tuple[int, ...], steps: int):
        tx = optax.adamw(LEARNING_RATE, weight_decay=DECAY)

        def update(params: Any, state: Any, g: Any) -> Any:
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), state

        self.steps, self.held = steps, (jnp.ones(shape), tx.init(jnp.ones(shape)))
        self._compile(update, shape)


class Torch:
    def __init__(self, shape: tuple[int, ...], steps: int):
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        tensor = torch.ones(shape, requires_grad=True)
        tensor.grad = torch.randn(shape)
        self.optimizer = torch.optim.AdamW([tensor], lr=LEARNING_RATE, weight_decay=DECAY, fused=True)
        self.steps, self.temp = steps, 0.0
        self()

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.steps):
            self.optimizer.step()
        return (time.perf_counter() - start) / self.steps


TIMED = ["packed32 (half)", "packed32, murmur", "ratio 12 bits, v 20 bits", "log16 + log16", "packed16 (quarter)"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["fidelity", "speed"])
    parser.add_argument("--sources", nargs="*", choices=SOURCES, default=list(SOURCES))
    args = parser.parse_args()
    print(common.machine() + "\n")

    if args.only != "speed":
        rows = []
        for form_name, form in FORMATS.items():
            cells = ["{:.4f} / {:.4f}".format(*fidelity(form, SOURCES[name], args.steps)) for name in args.sources]
            rows.append([form_name, f"{form.nbytes:.3g}", *cells])
            print("  ".join(map(str, rows[-1])), flush=True)
        print("\n" + common.table(["m and v: update's relative error / cosine", "bytes", *args.sources], rows) + "\n")

    if args.only != "fidelity":
        shape = (4096, 4096)
        contenders: dict[str, Any] = {"torch, fused": Torch(shape, 3), "optax, float32": Optax(shape, 3)}
        contenders |= {name: Stored(FORMATS[name], shape, 3) for name in TIMED}
        seconds = common.interleaved(contenders, args.rounds)
        rows = []
        for name, values in seconds.items():
            against = [common.ratios(values, seconds[other]) for other in ("torch, fused", "optax, float32")]
            rows.append([name, f"{1e3 * statistics.median(values):.1f}", *against, f"{contenders[name].temp:.2f}"])
        print(common.table(["step on this CPU", "ms", "over torch", "over Optax", "temp bytes/param"], rows))


if __name__ == "__main__":
    main()
