"""Schedules: to 1e-6 of float64 at every step, and in float64 what Optax computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.schedules import CASES, T, cosine, geometric, largest_error

from gradtx import schedules

LIMIT = 1e-6


@pytest.mark.parametrize("as_argument", [False, True], ids=["closed_over", "argument"])
@pytest.mark.parametrize("name", CASES)
def test_relative_error(name, as_argument):
    """At every step to the end and beyond it."""
    build, exact = CASES[name]
    schedule = build(schedules)
    counts = np.arange(T + 20, dtype=np.int32)
    values = jax.jit(lambda s, t: s(t))(schedule, counts) if as_argument else jax.jit(schedule)(counts)
    assert values.dtype == jnp.float32
    assert largest_error(values, exact(counts.astype(np.float64))) <= LIMIT


def test_a_million_steps():
    counts = np.array([1, 10, 999_999, 500_000, 999_990], np.int32)
    t = counts.astype(np.float64)
    assert largest_error(schedules.cosine_decay_schedule(1.0, 10**6)(counts), cosine(t, 1.0, 0.0, 10**6)) <= LIMIT
    decay = schedules.exponential_decay(1.0, 1, 0.99999)
    assert largest_error(decay(counts), geometric(t, 1.0, 1, 0.99999)) <= LIMIT


def test_the_ruler_sees_what_it_is_for():
    """Optax's cosine has no digit left one step before its end."""
    with jax.numpy_dtype_promotion("standard"):
        value = optax.cosine_decay_schedule(0.3, T)(np.int32(T - 1))
    assert abs(float(value) / cosine(T - 1.0, 0.3, 0.0, T) - 1) > 0.1


PEERS = {
    "linear": ("linear_schedule", (0.1, 0.3, 50, 2)),
    "polynomial": ("polynomial_schedule", (0.1, 0.3, 2.5, 50, 2)),
    "polynomial_0": ("polynomial_schedule", (0.1, 0.3, 0.0, 50)),
    "exponential": ("exponential_decay", (0.1, 5, 0.5, 2, False, 0.01)),
    "exponential_up": ("exponential_decay", (0.1, 5, 1.5, 2, False, 0.4)),
    "staircase": ("exponential_decay", (0.1, 5, 0.5, 2, True)),
    "cosine": ("cosine_decay_schedule", (0.1, 60, 0.2, 1.5)),
    "warmup_cosine": ("warmup_cosine_decay_schedule", (0.0, 0.3, 5, 60, 0.1, 1.2)),
    "warmup_cosine_to_zero": ("warmup_cosine_decay_schedule", (0.0, 0.0, 5, 60, 0.1)),
    "warmup_exponential": ("warmup_exponential_decay_schedule", (0.0, 0.3, 5, 7, 0.5, 3, True, 0.01)),
    "piecewise_linear": ("piecewise_interpolate_schedule", ("linear", 0.3, {3: 0.5, 9: 4.0, 40: 0.0})),
    "piecewise_cosine": ("piecewise_interpolate_schedule", ("cosine", 0.3, {9: 0.5, 30: 3.0})),
    "linear_onecycle": ("linear_onecycle_schedule", (60, 0.3, 0.2, 0.7, 10.0, 100.0)),
    "cosine_onecycle": ("cosine_onecycle_schedule", (60, 0.3, 0.2, 10.0, 100.0)),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.usefixtures("x64")
def test_optax_in_float64(name):
    function, arguments = PEERS[name]
    counts = jnp.arange(70)  # int64: with int32 Optax computes in float32
    with jax.numpy_dtype_promotion("standard"):
        peer = getattr(optax, function)(*arguments)
        expected = np.array([peer(t) for t in counts], np.float64)
    ours = getattr(schedules, function)(*arguments)
    found = np.asarray(ours(counts))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose([float(ours(int(t))) for t in counts[::9]], expected[::9], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_finite(name):
    """Of the values that a schedule goes between, at its ends too."""
    schedule = CASES[name][0](schedules)
    for t in (0, 1, T - 1, T, T + 5):
        slopes = jax.grad(lambda s, t=t: jnp.sum(s(t)), allow_int=True)(schedule)
        assert all(np.isfinite(x) for x in jax.tree.leaves(slopes))


def test_no_new_compilation_for_other_values():
    step = jax.jit(lambda s, t: s(t))
    for peak in (0.1, 0.2):
        step(schedules.warmup_cosine_decay_schedule(0.0, peak, 10, 100), 5)
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.exponential_decay(1.0, 10, -0.5), "decay_rate"),
        (lambda: schedules.exponential_decay(1.0, 0, 0.5), "transition_steps"),
        (lambda: schedules.piecewise_interpolate_schedule("cubic", 1.0, {3: 0.5}), "'linear' or 'cosine'"),
        (lambda: schedules.piecewise_interpolate_schedule("linear", 1.0, {-3: 0.5}), "boundaries"),
        (lambda: schedules.piecewise_interpolate_schedule("linear", 1.0, {3: -0.5}), "scales"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_power_schedule():
    """Not Optax's: ADOPT's limit."""
    counts = np.array([0, 1, 2, 1_000, 10**6], np.int32)
    for power in (0.25, 2.0):
        assert largest_error(schedules.power_schedule(power)(counts), counts.astype(np.float64) ** power) <= LIMIT
