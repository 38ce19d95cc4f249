"""Gaussian noise on the gradient, less and less of it; from a seed and the element's place alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.hyperparameters import number_field
from gradtx._core.safe import safe_sqrt
from gradtx._core.signal import Signal
from gradtx._core.stages import Leafwise, Step

Slots = dict[str, jax.Array]


class add_noise(Leafwise):
    r"""Add Gaussian noise whose variance falls with time.

    $$u \leftarrow u + n, \qquad n \sim \mathcal{N}(0, \eta / t^\gamma)$$

    The noise is a function of the key, the step count, the number of the leaf in its tree and the element's index in
    the leaf. So it is the same on every layout and after a restart, and two such stages of one chain need different
    keys. Of a complex leaf the real and the imaginary part each get half of the variance.

    Args:
        eta: $\eta \ge 0$, the variance at the first step; may be a schedule.
        gamma: $\gamma$, the exponent with which it falls; may be a schedule.
        key: an integer, or a key of `jax.random`; None is 0. It is static: another one compiles again.
        seed: another name for `key`.

    State:
        none.

    Raises:
        TypeError: the key is neither an integer nor a key, or its value is not known (under `jit`, say).
        ValueError: both `key` and `seed` are given.

    Source:
        Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", arXiv:1511.06807,
        equation 1.
    """

    eta: Any = number_field(minimum=0.0)
    gamma: Any = number_field()
    key: Any = None
    seed: Any = None

    randomized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.key is not None and self.seed is not None:
            raise ValueError("add_noise: expected key or seed, which are two names for one thing; got both")
        object.__setattr__(self, "key", _static_key(self.seed if self.key is None else self.key))
        object.__setattr__(self, "seed", None)
        super().__post_init__()

    def scalars(self, step: Step) -> tuple[Slots, Slots]:
        eta, gamma = step.value(self.eta), step.value(self.gamma)
        return {"deviation": safe_sqrt(eta) * step.t ** (-gamma / 2)}, {}

    def emit(self, s: SimpleNamespace, slots: Slots, signal: Signal) -> Signal:
        key = _random_key(self.key)
        for number in (s.count, s.leaf):
            key = jax.random.fold_in(key, number)
        noise = jax.random.normal(key, signal.update.shape, signal.update.dtype)
        return signal.write(signal.update + s.deviation * noise)


def _static_key(key: Any) -> Any:
    """An integer, or a key's implementation and data: what hashes, compares, prints and pickles by value."""
    if key is None:
        return 0
    if isinstance(key, jax.core.Tracer):
        raise TypeError(
            "add_noise(key=...): expected a key whose value is known, got a traced one; gradtx.inject_hyperparams(tx) leaves "
            "it alone, optax.inject_hyperparams does with static_args=('key',)"
        )
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.ndim:
        return (str(jax.random.key_impl(key)), *np.asarray(jax.random.key_data(key)).tolist())
    if isinstance(key, tuple) and key and isinstance(key[0], str):
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.shape == (2,) and key.dtype == np.uint32:
        return ("threefry2x32", *np.asarray(key).tolist())
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    raise TypeError(f"add_noise(key=...): expected an integer or a key of jax.random, got {key!r}")


def _random_key(key: Any) -> jax.Array:
    if isinstance(key, int):
        return jax.random.key(key, impl="threefry2x32")
    return jax.random.wrap_key_data(jnp.asarray(key[1:], jnp.uint32), impl=key[0])
