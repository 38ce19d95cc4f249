"""What `benchmarks.gpu_time` measures: donated steps of JAX and of torch on one GPU, and how a measurement is taken.

Calls return before the GPU has finished, so a measurement enqueues as many steps as take 50 ms and waits once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import common
from gradtx._rehearsal import traffic

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

LEARNING_RATE, DECAY = 1e-3, 1e-2
LEAST_SECONDS, MOST_STEPS = 0.05, 400  # of one measurement
MOST_LEAVES_READ = 100  # programs of more leaves are not read for their bytes


def torch_device() -> str | None:
    """Where torch takes part: on the GPU, on the CPU where JAX is there as well (`--allow-cpu`), or not at all."""
    if torch is None:
        return None
    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if jax.devices()[0].platform == "cpu" else None


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type), tree)


def normal(shapes: Any, scale: float, seed: int) -> Any:
    """Arrays of the shapes and dtypes of a tree, drawn on the device; none is weakly typed."""
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), max(len(leaves), 2))
    drawn = [_draw(k, scale, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(treedef, drawn)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(key: jax.Array, scale: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return (jax.random.normal(key, shape, jnp.float32) * scale).astype(dtype)


class Contender:
    """Something that steps on the GPU; calling it gives the seconds of one step.

    Attributes:
        ideal: the bytes a step must read and write: all that is kept twice, gradients once for every pass over them.
        temp: the most bytes that a step takes beside what it is given, if known.
        moved: the bytes that the compiled program reads and writes, if known.
        steps: in one measurement.
        enqueued: the seconds a step takes the host, of each measurement.
    """

    ideal: float = math.nan
    temp: int | None = None
    moved: float | None = None
    steps = 1
    enqueued: list[float]

    def compile(self) -> None:
        """What may be done in a thread beside others."""

    def place(self) -> None:
        """Take memory, and warm up."""
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def wait(self) -> None:
        raise NotImplementedError

    def warm_up(self) -> None:
        """Run, then choose how many steps a measurement takes."""
        for _ in range(3):
            self.step()
        self.wait()
        self.steps, self.enqueued = 2, []
        for _ in range(2):  # the second guess is from a measurement as long as those that count
            self.steps = max(1, min(MOST_STEPS, math.ceil(LEAST_SECONDS / self())))
        self.enqueued = []

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        self.enqueued.append((time.perf_counter() - start) / self.steps)
        self.wait()
        return (time.perf_counter() - start) / self.steps


class JaxContender(Contender):
    """A transformation and parameters of its own; gradients are shared.

    Args:
        tx: of gradtx or Optax.
        shapes: the parameters'.
        grads: as many arrays.
        passes: how often a step must read the gradients.
        as_argument: whether the transformation is an argument of the jitted step.
        keywords: what every `update` is given.
    """

    def __init__(
        self,
        tx: Any,
        shapes: Any,
        grads: Any,
        *,
        passes: int = 1,
        as_argument: bool = False,
        keywords: dict[str, Any] | None = None,
    ):
        self.tx, self.shapes, self.grads, self.passes = tx, shapes, grads, passes
        self.first = (tx,) if as_argument else ()
        self.jitted: Any = common.training_step(tx, as_argument=as_argument, keywords=keywords)

    def compile(self) -> None:
        state = jax.eval_shape(self.tx.init, self.shapes)
        compiled = self.jitted.lower(*self.first, self.shapes, state, shapes_of(self.grads)).compile()
        memory = compiled.memory_analysis()
        self.temp = None if memory is None else memory.temp_size_in_bytes
        if len(jax.tree.leaves(self.shapes)) <= MOST_LEAVES_READ:
            with contextlib.suppress(ValueError, KeyError, IndexError):  # text in a form that it does not know
                self.moved = traffic.hbm_bytes(compiled.as_text())

    def place(self) -> None:
        params = normal(self.shapes, 0.02, seed=1)
        # Copied, since some of Optax's states hold an array twice, which cannot be donated.
        self.held: Any = jax.tree.map(jnp.copy, (params, self.tx.init(params)))
        self.ideal = 2 * nbytes(self.held) + self.passes * nbytes(self.grads)
        self.warm_up()

    def step(self) -> None:
        self.held = self.jitted(*self.first, *self.held, self.grads)

    def wait(self) -> None:
        jax.block_until_ready(self.held)


class Again(JaxContender):
    """The same compiled program over other arrays: what noise and memory alone do."""

    def __init__(self, one: JaxContender):
        self.one = one
        self.tx, self.shapes, self.grads, self.passes = one.tx, one.shapes, one.grads, one.passes
        self.first, self.jitted = one.first, one.jitted

    def compile(self) -> None:
        """It is compiled."""

    def place(self) -> None:
        self.temp, self.moved = self.one.temp, self.one.moved
        super().place()


class Copy(Contender):
    """Reading and writing one large array, which nothing can do faster: the ceiling of bandwidth."""

    def __init__(self, size: int):
        self.size, self.ideal = size, 8.0 * size
        self.jitted = jax.jit(lambda x: x + 1, donate_argnums=0)

    def place(self) -> None:
        self.held = normal(jax.ShapeDtypeStruct((self.size,), jnp.float32), 1.0, seed=2)
        self.warm_up()

    def step(self) -> None:
        self.held = self.jitted(self.held)

    def wait(self) -> None:
        jax.block_until_ready(self.held)


class TorchContender(Contender):
    """torch's AdamW over parameters of the same shapes, on the same device.

    Args:
        shapes: the parameters'.
        fused, foreach: as torch's.
        whole: with clipping, a schedule, and a group of biases that do not decay.
    """

    def __init__(self, shapes: Any, *, fused: bool = False, foreach: bool = False, whole: bool = False):
        self.shapes, self.whole = shapes, whole
        self.kind: dict[str, Any] = {"fused": True} if fused else {"foreach": foreach}
        self.device = torch_device()

    def place(self) -> None:
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        generator = torch.Generator(self.device).manual_seed(0)
        self.params, biases = [], []
        for path, s in jax.tree.leaves_with_path(self.shapes):
            like: dict[str, Any] = {"dtype": dtypes[s.dtype.name], "device": self.device, "generator": generator}
            param = torch.randn(s.shape, **like).mul_(0.02).requires_grad_()
            param.grad = torch.randn(s.shape, **like)
            self.params.append(param)
            if self.whole and jax.tree_util.keystr(path).endswith("['bias']"):
                biases.append(param)
        bias_ids = {id(b) for b in biases}
        rest = [p for p in self.params if id(p) not in bias_ids]
        groups = [{"params": rest, "weight_decay": 0.1 if self.whole else DECAY}]
        groups += [{"params": biases, "weight_decay": 0.0}] if biases else []
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, **self.kind)
        factor = lambda t: min(t / 100, 1.0) * 0.5 * (1 + math.cos(math.pi * min(t / 10_000, 1.0)))  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor) if self.whole else None
        for _ in range(2):
            self.step()
        self.wait()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            self.wait()
            self.temp = torch.cuda.max_memory_allocated() - before
        each = sum(p.numel() * p.element_size() for p in self.params)
        self.ideal = each * (7 + self.whole)  # all of them, and both moments, are of the parameters' dtype
        self.warm_up()

    def step(self) -> None:
        if self.schedule is not None:
            torch.nn.utils.clip_grad_norm_(self.params, 1.0, foreach=True)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def compile_all(contenders: dict[str, Contender], say: Callable[[str], None], threads: int) -> dict[str, Contender]:
    """Compile side by side; those that fail are named and left out."""

    def one(contender: Contender) -> Exception | None:
        try:
            contender.compile()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(threads) as pool:
        errors = dict(zip(contenders, pool.map(one, contenders.values()), strict=True))
    return {n: c for n, c in contenders.items() if not _failed(n, errors[n], say)}


def place_all(contenders: dict[str, Contender], say: Callable[[str], None]) -> dict[str, Contender]:
    """Give all of them memory; those that fail are named and left out."""
    placed = {}
    for name, contender in contenders.items():
        try:
            contender.place()
        except Exception as error:
            _failed(name, error, say)
            contender.__dict__.clear()  # its arrays
            continue
        placed[name] = contender
    return placed


def _failed(name: str, error: Exception | None, say: Callable[[str], None]) -> bool:
    if error is not None:
        say(f"{name}: not measured: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return error is not None


def free() -> None:
    """Give back what no contender holds any more."""
    gc.collect()
    if torch_device() == "cuda":
        torch.cuda.empty_cache()
