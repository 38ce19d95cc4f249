"""Failure reports: which stage, which leaf, which step, and what came in."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from zoo import BY_NAME

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = {"a": {"w": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}, "b": jnp.asarray([0.5, -0.5])}


class poison(gradtx.Leafwise):
    """Divide by the distance of the update from a number: infinite where they are equal."""

    at: Any = gradtx.number_field()

    def emit(self, s: Any, slots: Any, signal: Any) -> Any:
        return signal.write(signal.update / (signal.update - s.at))


class overflowing(gradtx.Leafwise):
    """Keep a product that grows without bound, and do nothing with it."""

    writes = False

    def slots(self) -> Any:
        return (gradtx.Slot("product"),)

    def accumulate(self, s: Any, slots: Any, signal: Any) -> Any:
        return {"product": (slots["product"] + signal.update) * 1e30}


def step_of(tx: Any, steps: int, grads: Any = TREE, **extra: Any) -> Any:
    """The report of the last of some steps."""
    state = tx.init(grads)
    for _ in range(steps - 1):
        _, state = tx.update(grads, state, TREE, **extra)
    return gradtx.find_nonfinite(tx, grads, state, TREE, **extra)


def test_what_a_report_says():
    tx = gradtx.chain(gradtx.scale(2.0), ("mine", poison(6.0)), gradtx.adam(0.1))
    found = step_of(tx, 1)
    assert found == gradtx.NonfiniteReport(1, "poison ('mine')", "a/w", (1, 0), "update", np.inf, 6.0, 3.0, 3.0)
    assert str(found) == "step 1: poison ('mine') made inf at a/w[1, 0] from 6 (gradient 3, parameter 3)"


def test_gradients_that_came_in_so():
    bad = {**TREE, "b": jnp.asarray([0.5, jnp.nan])}
    found = step_of(gradtx.adam(0.1), 3, bad)
    assert (found.step, found.stage, found.leaf, found.index) == (3, "gradients", "b", (1,))
    assert str(found) == "step 3: the gradient of b[1] is nan (parameter -0.5)"


def test_a_slot_that_overflows():
    found = step_of(gradtx.chain(overflowing(), gradtx.sgd(0.1)), 2)
    assert (found.stage, found.what, found.leaf, found.index, found.step) == (
        "overflowing",
        "product",
        "a/w",
        (0, 0),
        2,
    )
    assert found.came_in == pytest.approx(1e30, rel=1e-5)
    assert "made inf in its slot 'product' at a/w[0, 0] from 1e+30" in str(found)


STAGES = {
    "treewise": (gradtx.chain(gradtx.adam(0.1), poison(-0.1), gradtx.clip_by_global_norm(1.0)), "poison"),
    "foreign": (gradtx.chain(optax.scale(1e37), gradtx.scale(1e38), gradtx.sgd(0.1)), "scale"),
    "first and second": (
        gradtx.chain(gradtx.scale(1e38), gradtx.scale(1e-30), gradtx.adam(0.1), gradtx.scale(np.inf)),
        "scale",
    ),
    "optax": (gradtx.chain(optax.scale(1e30), optax.scale(1e30), gradtx.sgd(0.1)), "optax.scale"),
    "group": (gradtx.by_path({"b": gradtx.sgd(0.1), "**": gradtx.chain(poison(3.0), gradtx.sgd(0.1))}), "poison"),
    "scope": (gradtx.chain(gradtx.adam(0.1), gradtx.scope(poison(-0.1))), "poison"),
    "wrapped": (
        gradtx.chain(gradtx.clip(9.0), gradtx.skip_nonfinite(poison(3.0)), gradtx.scale(1.0)),
        "skip_nonfinite",
    ),
    "stored": (
        gradtx.with_storage(gradtx.chain(gradtx.adam(0.1), gradtx.scale(np.inf)), "bfloat16", min_size=0),
        "scale",
    ),
}


@pytest.mark.parametrize(("tx", "stage"), STAGES.values(), ids=STAGES.keys())
def test_stages_of_all_kinds(tx: Any, stage: str):
    with jax.numpy_dtype_promotion("standard"):
        found = step_of(tx, 1)
    assert (found.stage, found.step) == (stage, 1)


def test_float16_updates_that_overflow():
    half = {"w": jnp.ones(3, jnp.float16)}
    found = gradtx.find_nonfinite(gradtx.sgd(1e6), half, gradtx.sgd(1e6).init(half), half)
    assert (found.stage, found.value, found.came_in) == ("scale_by_learning_rate", -np.inf, 1.0)


@pytest.mark.parametrize("name", ["adamw", "clip_by_global_norm"])
def test_nothing_is_reported_where_all_is_finite(name: str):
    tree = samples.few()
    tx = BY_NAME[name].build()
    _, state = tx.update(samples.grads_like(tree), tx.init(tree), tree)
    assert gradtx.find_nonfinite(tx, samples.grads_like(tree, 2), state, tree) is None


# ---- inside jit ----


@pytest.fixture
def heard():
    """What is reported, and the function that it is reported to."""
    reports: list[gradtx.NonfiniteReport] = []
    return reports, reports.append


def test_the_first_failure_is_reported_once_inside_jit(heard: Any):
    reports, tell = heard
    plain = gradtx.chain(gradtx.scale(1.0), poison(6.0), gradtx.sgd(0.1))
    tx = gradtx.report_nonfinite(plain, tell)
    state, update = tx.init(TREE), jax.jit(tx.update)
    expected_state = plain.init(TREE)
    for factor in (1.0, 0.5, 2.0, 2.0, 1.0):
        grads = jax.tree.map(lambda g, f=factor: f * g, TREE)
        updates, state = update(grads, state, TREE)
        expected, expected_state = plain.update(grads, expected_state, TREE)
        chex.assert_trees_all_equal(updates, expected)
    jax.effects_barrier()
    assert [(r.step, r.stage, r.leaf, r.index, r.came_in) for r in reports] == [(3, "poison", "a/w", (1, 0), 6.0)]
    assert int(state.failed_at) == 3
    assert update._cache_size() == 1


def test_inside_scan_skip_and_vmap(heard: Any):
    reports, tell = heard
    tx = gradtx.skip_nonfinite(gradtx.report_nonfinite(gradtx.chain(poison(6.0), gradtx.sgd(0.1)), tell))

    def step(state: Any, factor: Any) -> Any:
        return tx.update(jax.tree.map(lambda g: factor * g, TREE), state, TREE)[1], None

    jax.block_until_ready(jax.jit(lambda s: jax.lax.scan(step, s, jnp.asarray([1.0, 2.0, 3.0])))(tx.init(TREE)))
    jax.effects_barrier()
    assert [r.step for r in reports] == [2]
    reports.clear()

    def one(factor: Any) -> Any:
        return tx.update(jax.tree.map(lambda g: factor * g, TREE), tx.init(TREE), TREE)[1].inner.failed_at

    failed = jax.jit(jax.vmap(one))(jnp.asarray([1.0, 2.0, 3.0]))
    jax.effects_barrier()
    np.testing.assert_array_equal(failed, [0, 1, 1])  # 2 x 3 and 3 x 2
    assert {r.leaf for r in reports} == {"a/w"}


def test_printed_where_nobody_listens(capfd: Any):
    tx = gradtx.report_nonfinite(gradtx.chain(poison(3.0), gradtx.sgd(0.1)))
    jax.jit(tx.update)(TREE, tx.init(TREE), TREE)
    jax.effects_barrier()
    assert "gradtx: step 1: poison made inf at a/w[1, 0] from 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gradtx.report_nonfinite(gradtx.accumulate_gradients(gradtx.sgd(0.1), 2)),
            "put it inside: accumulate_gradients",
        ),
        (lambda: gradtx.report_nonfinite(gradtx.sgd(0.1), 3), "expected a function of a report"),
        (
            lambda: gradtx.find_nonfinite(gradtx.skip_nonfinite(gradtx.sgd(0.1)), TREE, ()),
            "of a wrapper give what is inside",
        ),
    ],
)
def test_what_is_wrong(call: Any, message: str):
    with pytest.raises(TypeError, match=message):
        call()
