"""Rounding of 16-bit parameters: the value that lands, on every 16-bit number, and what is kept of the rest."""

from __future__ import annotations

import functools

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from reference.rounding import Grid, Kahan, Master, flushed

import gradtx

DTYPES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
STAGES = {
    "stochastic": gradtx.stochastic_rounding(),
    "compensated": gradtx.compensated(),
    "compensated_32": gradtx.compensated("float32"),
    "master": gradtx.master_weights(),
    "master_32": gradtx.master_weights(32),
    "master_24": gradtx.master_weights(24),
}
EVERY = pytest.mark.parametrize("name", STAGES)
RELATIVE = [0.0, 2**-9, -3e-3, 2**-8, -1.0, -2.0, 2**-12 - 1, 1e-5 - 1, 2**-16, -1e-7, 300.0]
ABSOLUTE = [1e-3, -1.0, -65520.0, 2**-24, -(2**-25), 1e-12, -1e-40, -3e38, 3.4e38, np.inf, -np.inf, np.nan]


@functools.cache
def grid(dtype):
    return Grid(dtype)


def pairs(dtype):
    """Every value of the dtype, infinities and NaN included, with each of the updates; and random pairs."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.dtype(dtype))
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        wide = every.astype(np.float32)
        updates = [wide * np.float32(r) for r in RELATIVE] + [np.full_like(wide, a) for a in ABSOLUTE]
        updates += [
            wide * (rng.normal(size=wide.shape) * 10.0 ** rng.integers(-5, 1)).astype(np.float32) for _ in range(2)
        ]
    return jnp.asarray(np.tile(every, (len(updates), 1))), jnp.asarray(np.stack(updates).astype(np.float32))


def bits_of(x):
    """The words of an array, those of all NaN alike."""
    return np.where(np.isnan(wide(x)), 0x7FFF, np.asarray(x).view(np.uint16))


def wide(x):
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(x).astype(np.float64)


def start(name, params, rng):
    """A state with something in its slots: residuals and bits of any size that occurs."""
    tx = STAGES[name]
    state = tx.init(params)
    (kept,) = state.stages
    if not kept:
        return state
    ((slot, array),) = kept.items()
    if slot == "low_bits":
        range_ = np.iinfo(array.dtype)
        array = jnp.asarray(rng.integers(range_.min, range_.max, array.shape, endpoint=True), array.dtype)
        array = jnp.where(jnp.isfinite(params), array, 0)
    elif slot == "residual":
        step = np.where(np.isfinite(wide(params)), wide(params), 0) * float(jnp.finfo(params.dtype).eps)
        array = jnp.asarray(step * rng.uniform(-0.5, 0.5, array.shape), jnp.float32).astype(array.dtype)
    else:
        array = gradtx.master_parameters(STAGES["master_32"], start("master_32", params, rng), params)
    return state._replace(stages=({slot: array},))


@DTYPES
@EVERY
def test_what_lands_on_every_value(name, dtype):
    """The same by every apply, near what was aimed at, and exactly that unless old and new are far apart."""
    params, updates = pairs(dtype)
    state, tx = start(name, params, np.random.default_rng(1)), STAGES[name]
    move, after = tx.update(updates, state, params)
    assert move.dtype == jnp.float32
    assert not move.weak_type
    landed = gradtx.apply_updates(params, move)
    stepped, stepped_state = gradtx.step(tx, params, state, updates, donate=False)
    np.testing.assert_array_equal(bits_of(stepped), bits_of(landed))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stepped_state)):
        np.testing.assert_array_equal(a, b)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_array_equal(bits_of(optax.apply_updates(params, move)), bits_of(landed))
        np.testing.assert_array_equal(bits_of(jax.jit(optax.apply_updates)(params, move)), bits_of(landed))

    g, old, u = grid(dtype), flushed(wide(params)), flushed(wide(updates))
    with np.errstate(all="ignore"):
        expected, kept = oracle(name, g, old, u, params, state, wide(landed))
        ratio = np.abs(old) / np.abs(expected)
        near = (ratio <= 2.0 ** (16 if g.dtype != np.float16 else 13)) | (expected == 0) | ~np.isfinite(ratio)
        near &= ~(np.abs(expected - old) > np.finfo(np.float32).max) | ~np.isfinite(expected)
        away = np.abs(wide(landed) - expected) > 2.0**-23 * np.abs(old) + 2.0**-126
        near &= (np.abs(expected - old) >= 2.0**-126) | (expected == old) | ~np.isfinite(expected)  # or it is flushed
    assert near.mean() > 0.8
    np.testing.assert_array_equal(wide(landed)[near], expected[near])
    finite = np.isfinite(expected) & np.isfinite(old)  # and the oracle's sum is infinite only where a float32 is
    assert np.isfinite(wide(landed)[finite]).all()
    step = np.abs(np.where(finite, expected, 0) - np.where(finite, old, 0))
    assert not (away & finite & (step < np.finfo(np.float32).max)).any()

    if kept is not None:
        found = gradtx.master_parameters(tx, after, landed) if "master" in name else after.stages[0]["residual"]
        same = near if name != "master" else np.ones_like(near)
        np.testing.assert_array_equal(flushed(wide(found))[same], kept[same])


@DTYPES
@EVERY
def test_flax_lands_there_too(name, dtype):
    """Ten steps of random updates, with the state that each framework keeps."""
    tx, rng = STAGES[name], np.random.default_rng(2)
    params = {"w": jnp.asarray(rng.normal(size=300), dtype)}
    model = nnx.Dict(w=nnx.Param(params["w"]))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    train = TrainState.create(apply_fn=None, params=params, tx=tx)
    ours, state = params, tx.init(params)
    for _ in range(10):
        updates = {"w": ours["w"].astype(jnp.float32) * jnp.asarray(rng.normal(size=300) * 0.003, jnp.float32)}
        ours, state = gradtx.step(tx, ours, state, updates, donate=False)
        with jax.numpy_dtype_promotion("standard"):
            train = train.apply_gradients(grads=updates)
            optimizer.update(model, nnx.state(nnx.Dict(w=nnx.Param(updates["w"]))))
        np.testing.assert_array_equal(bits_of(train.params["w"]), bits_of(ours["w"]))
        np.testing.assert_array_equal(bits_of(model.w[...]), bits_of(ours["w"]))
    assert ours["w"].dtype == dtype
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(train.opt_state)):
        np.testing.assert_array_equal(a, b)


def oracle(name, g, old, u, params, state, landed):
    """What should land, and what should be kept of it."""
    if name == "stochastic":  # one of two neighbours: the one that was landed on, if it is
        total = np.float64(np.float32(old) + np.float32(u))
        low, high = g.below(np.clip(np.where(np.isfinite(total), flushed(total), 0), -g.largest, g.largest))
        low = np.where(np.isfinite(total), low, total)
        return np.where((landed == high) & (flushed(total) > low), high, low), None
    if name.startswith("master"):
        bits = {"master": None, "master_32": 32, "master_24": 24}[name]
        before = wide(gradtx.master_parameters(STAGES[name], state, params))
        return Master(g, bits).update(flushed(before), u)
    kept = None if name == "compensated_32" else g
    return Kahan(g, kept).update(old, u, flushed(wide(state.stages[0]["residual"])))


# ---- stochastic rounding ----


def drawn(old, update, seed=0, steps=1, count=0):
    """Where the elements of an array land at each step, started from the same values each time."""
    tx = gradtx.stochastic_rounding(seed)
    state, found = tx.init(old)._replace(count=jnp.int32(count)), []
    for _ in range(steps):
        move, state = tx.update(update, state, old)
        found.append(wide(gradtx.apply_updates(old, move)))
    return np.stack(found)


CASES = [1.0, -0.3, 1e-3, 65000.0, -6.1e-5, 2.0**-14, 3e-6, 2.0**-24, 0.0]


@DTYPES
@pytest.mark.parametrize("value", CASES)
@pytest.mark.parametrize("share", [0.5, 0.01, -0.2])
def test_the_mean_of_100000_draws_is_the_exact_sum(value, share, dtype):
    size, g = 100_000, grid(dtype)
    old = jnp.full(size, value, dtype)
    if np.float32(old[0]) == 0 and dtype == jnp.bfloat16:
        pytest.skip("beside zero float32 has no numbers to round")
    step = np.diff(g.below(wide(old[0])))[0] if dtype == jnp.float16 else abs(wide(old[0])) * 2.0**-7
    update = jnp.full(size, share * step, jnp.float32)
    (landed,) = drawn(old, update)
    exact = float(np.float32(old[0]) + np.float32(share * step))
    low, high = g.below(exact)
    assert set(np.unique(landed)) <= {float(low), float(high)}
    fraction = (exact - low) / (high - low)
    assert abs((landed == high).mean() - fraction) < 5 * (fraction * (1 - fraction) / size) ** 0.5 + 2.0**-16


@DTYPES
def test_no_step_is_lost_over_time(dtype):
    """A thousand updates, each a hundredth of a step or less, add up to their sum as rounding to nearest never would."""
    size, steps = 2000, 1000
    tx, update = gradtx.stochastic_rounding(), jnp.full(size, 2e-5 if dtype == jnp.float16 else 1e-4, jnp.float32)

    def body(carry, _):
        params, state = carry
        move, state = tx.update(update, state, params)
        return (gradtx.apply_updates(params, move), state), None

    params = jnp.ones(size, dtype)
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=steps))((params, tx.init(params)))
    expected, spacing = 1 + steps * float(update[0]), float(jnp.finfo(dtype).eps)
    # The variance of a draw is at most spacing * update.
    tolerance = 5 * (steps * spacing * float(update[0]) / size) ** 0.5
    assert abs(wide(params).mean() - expected) < tolerance < 0.05 * (expected - 1)
    assert float(jnp.ones((), dtype) + update[0].astype(dtype)) == 1.0


def test_rows_columns_steps_leaves_and_seeds_are_independent():
    shape = (256, 512)
    old, half = jnp.ones(shape, jnp.bfloat16), jnp.full(shape, 2.0**-8, jnp.float32)
    first, second = drawn(old, half, steps=2)
    (later,) = drawn(old, half, count=1 << 20)
    (seeded,) = drawn(old, half, seed=1)
    tx = gradtx.stochastic_rounding()
    tree = {"a": old, "b": old}
    leaf = wide(tx.update({"a": half, "b": half}, tx.init(tree), tree)[0]["b"]) + 1
    others = [
        second,
        later,
        seeded,
        leaf,
        np.roll(first, 1, 0),
        np.roll(first, 1, 1),
        np.roll(first, 16, 1),
        np.roll(first, (1, 1), (0, 1)),
    ]
    series = np.stack([first, *others]).reshape(1 + len(others), -1)
    assert np.abs(np.corrcoef(series) - np.eye(len(series)))[0].max() < 5 / first.size**0.5
    for one in (first, first.T):
        assert np.abs(np.corrcoef(one[:256, :256]) - np.eye(256)).max() < 6 / 16


@DTYPES
def test_what_is_exact_or_not_a_number_stays(dtype):
    largest = float(jnp.finfo(dtype).max)
    below = float(grid(dtype).values[-2])
    old = jnp.asarray([0.0, -0.0, 1.0, -largest, largest, jnp.inf, -jnp.inf, jnp.nan, 1.0, 1.0, below, -below], dtype)
    update = jnp.asarray(
        [
            0,
            0,
            0,
            0,
            (largest - below) / 3,
            1,
            -1,
            1,
            jnp.inf,
            jnp.nan,
            1.6 * (largest - below),
            1.6 * (below - largest),
        ],
        jnp.float32,
    )
    expected = [0, 0, 1, -largest, largest, np.inf, -np.inf, np.nan, np.inf, np.nan, largest, -largest]
    for landed in drawn(old, update, steps=20):
        np.testing.assert_array_equal(landed, expected)


@EVERY
@pytest.mark.parametrize("spec", [P("x", "y"), P("y", None), P(None, ("x", "y"))], ids=str)
def test_the_same_numbers_on_every_layout(name, spec):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    rng, tx = np.random.default_rng(3), gradtx.chain(gradtx.scale(-1.0), STAGES[name])
    params, grads = (
        jnp.asarray(rng.normal(size=(16, 8)), jnp.bfloat16),
        jnp.asarray(rng.normal(size=(16, 8)) * 0.01, jnp.float32),
    )
    where = NamedSharding(mesh, spec)
    sharded, there = jax.device_put(params, where), jax.device_put(grads, where)
    state, other = tx.init(params), tx.init(sharded)
    for _ in range(3):
        params, state = gradtx.step(tx, params, state, grads, donate=False)
        sharded, other = gradtx.step(tx, sharded, other, there, donate=False)
        np.testing.assert_array_equal(bits_of(sharded), bits_of(params))
    assert sharded.sharding.is_equivalent_to(where, 2)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other)):
        np.testing.assert_array_equal(a, b)
        assert not b.ndim or b.sharding.is_equivalent_to(where, 2)
