"""Three real tasks, from data that come inside packages: digits by a dense and by a convolutional network, and a
transformer that learns to write Python from the standard library's sources."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sysconfig
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Params = Any
Batch = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to train.

    Attributes:
        name: of the task.
        init: the parameters of a seed.
        loss: of parameters on a batch, a scalar.
        batches: all batches of a run of a seed and a number of steps, stacked.
        held_out: the loss of parameters on data that no batch has.
        learning_rate: the peak that suits AdamW.
        weight_decay: of AdamW.
        steps: of an ordinary run.
    """

    name: str
    init: Callable[[int], Params]
    loss: Callable[[Params, Batch], jax.Array]
    batches: Callable[[int, int], Batch]
    held_out: Callable[[Params], jax.Array]
    learning_rate: float
    weight_decay: float
    steps: int


def digits_mlp() -> Task:
    """Handwritten digits, 64 - 256 - 256 - 10."""

    def init(seed: int) -> Params:
        keys = jax.random.split(jax.random.key(seed), 3)
        sizes = [(64, 256), (256, 256), (256, 10)]
        kernels = [jax.nn.initializers.he_normal()(k, s) for k, s in zip(keys, sizes, strict=True)]
        return [{"kernel": k, "bias": jnp.zeros(k.shape[1])} for k in kernels]

    def logits(params: Params, images: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            images = jax.nn.relu(images @ layer["kernel"] + layer["bias"])
        return images @ params[-1]["kernel"] + params[-1]["bias"]

    return _digits("digits, dense", init, logits, 3e-3, 600)


def digits_conv() -> Task:
    """Handwritten digits, two convolutions and a dense layer."""

    def init(seed: int) -> Params:
        keys = jax.random.split(jax.random.key(seed), 3)
        he = jax.nn.initializers.he_normal
        shapes = [(3, 3, 1, 32), (3, 3, 32, 64), (16 * 64, 10)]
        kernels = [he()(k, s) for k, s in zip(keys, shapes, strict=True)]
        return [{"kernel": k, "bias": jnp.zeros(k.shape[-1])} for k in kernels]

    def logits(params: Params, images: jax.Array) -> jax.Array:
        x = images.reshape(-1, 8, 8, 1)
        for stride, layer in zip((1, 2), params[:2], strict=True):
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"])
        return x.reshape(x.shape[0], -1) @ params[2]["kernel"] + params[2]["bias"]

    return _digits("digits, convolutional", init, logits, 3e-3, 400)


def _digits(name: str, init: Any, logits: Any, learning_rate: float, steps: int) -> Task:
    data = load_digits()
    images, labels = (data.data / 16.0).astype(np.float32), data.target.astype(np.int32)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)

    def loss(params: Params, batch: Batch) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch[0]), batch[1]).mean()

    def batches(seed: int, steps: int) -> Batch:
        chosen = np.random.default_rng(seed).integers(0, len(x), (steps, 64))
        return jnp.asarray(x[chosen]), jnp.asarray(y[chosen])

    def held_out(params: Params) -> jax.Array:
        return loss(params, (jnp.asarray(x_test), jnp.asarray(y_test)))

    return Task(name, init, loss, batches, held_out, learning_rate, 0.01, steps)


@functools.cache
def sources(limit: int = 12_000_000) -> np.ndarray:
    """The standard library's Python sources as bytes, one file behind the other; what is not ASCII reads as 0."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if not {"site-packages", "test", "tests", "idlelib"} & set(p.parts))
    text = b"\n".join(p.read_bytes() for p in files)[:limit]
    found = np.frombuffer(text, np.uint8)
    return np.where(found < 128, found, 0).astype(np.int32)


def language_model(width: int = 144, layers: int = 4, heads: int = 4, length: int = 64, batch: int = 16) -> Task:
    """A decoder over the bytes of the standard library's sources: 1.06 million parameters."""

    def init(seed: int) -> Params:
        keys = iter(jax.random.split(jax.random.key(seed), 2 + 4 * layers))
        normal = jax.nn.initializers.normal

        def block() -> Params:
            return {
                "norm_1": jnp.ones(width),
                "qkv": normal(width**-0.5)(next(keys), (width, 3 * width)),
                "out": normal((2 * layers * width) ** -0.5)(next(keys), (width, width)),
                "norm_2": jnp.ones(width),
                "up": normal(width**-0.5)(next(keys), (width, 4 * width)),
                "down": normal((8 * layers * width) ** -0.5)(next(keys), (4 * width, width)),
            }

        return {
            "embedding": normal(0.02)(next(keys), (128, width)),
            "position": normal(0.02)(next(keys), (length, width)),
            "blocks": [block() for _ in range(layers)],
            "norm": jnp.ones(width),
        }

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale

    def logits(params: Params, tokens: jax.Array) -> jax.Array:
        x = params["embedding"][tokens] + params["position"]
        for block in params["blocks"]:
            qkv = (norm(x, block["norm_1"]) @ block["qkv"]).reshape(*x.shape[:2], 3, heads, width // heads)
            mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
            x = x + mixed.reshape(x.shape) @ block["out"]
            x = x + jax.nn.gelu(norm(x, block["norm_2"]) @ block["up"]) @ block["down"]
        return norm(x, params["norm"]) @ params["embedding"].T

    def loss(params: Params, batch: Batch) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch[0]), batch[1]).mean()

    text = sources()
    cut = len(text) * 19 // 20

    def windows(starts: np.ndarray) -> Batch:
        tokens = text[starts[..., None] + np.arange(length + 1)]
        return jnp.asarray(tokens[..., :-1]), jnp.asarray(tokens[..., 1:])

    def batches(seed: int, steps: int) -> Batch:
        return windows(np.random.default_rng(seed).integers(0, cut - length - 1, (steps, batch)))

    last = windows(np.random.default_rng(0).integers(cut, len(text) - length - 1, 256))

    def held_out(params: Params) -> jax.Array:
        return loss(params, last)

    return Task("language model", init, loss, batches, held_out, 3e-3, 0.1, 400)


TASKS: dict[str, Callable[[], Task]] = {"mlp": digits_mlp, "conv": digits_conv, "lm": language_model}
