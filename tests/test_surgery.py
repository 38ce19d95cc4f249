"""State surgery: what is changed is changed, and everything else goes on as it was."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
from zoo import BY_NAME, ZOO, Row

import gradtx
from gradtx import schedules

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = samples.few()
TABLE = {"table": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32), "bias": jnp.ones(4)}


def run(tx: Any, tree: Any, steps: int = 3, state: Any = None, seed: int = 0) -> tuple[Any, Any]:
    state, update, updates = tx.init(tree) if state is None else state, jax.jit(tx.update), None
    for i in range(steps):
        updates, state = update(samples.grads_like(tree, seed + i), state, tree)
    return updates, state


# ---- reading and writing ----


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_carrying_over_to_the_same_changes_nothing(row: Row):
    tx = row.build()
    state = jax.tree.map(lambda x: jnp.full_like(x, 3), tx.init(TREE))  # not what a step makes, but cheap
    for after in (gradtx.carry_state(tx, state, tx, TREE), same(tx, state)):
        chex.assert_trees_all_equal(after, state)
        assert samples.avals(after) == samples.avals(state)


def same(tx: Any, state: Any) -> Any:
    try:
        return gradtx.map_slots(lambda x: x, tx, state)
    except ValueError:  # it keeps nothing for its leaves
        return state


WRAPS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: gradtx.chain(gradtx.clip(1.0), tx),
    "accumulate": lambda tx: gradtx.accumulate_gradients(tx, 2),
    "inside": lambda tx: gradtx.chain(gradtx.clip(1.0), gradtx.skip_nonfinite(tx)),
    "inject": gradtx.inject_hyperparams,
    "stored": lambda tx: gradtx.with_storage(tx, mu="bfloat16", min_size=0),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_slots_by_name_and_path(wrap: Any):
    tx = wrap(gradtx.adam(0.1))
    _, state = run(tx, TABLE, 4)
    before = gradtx.get_slot(tx, state, "mu")
    doubled = gradtx.map_slots(lambda x: 2 * x, tx, state, "mu", "table")
    after = gradtx.get_slot(tx, doubled, "mu")
    np.testing.assert_array_equal(after["table"], 2 * before["table"])
    np.testing.assert_array_equal(after["bias"], before["bias"])
    chex.assert_trees_all_equal(gradtx.get_slot(tx, doubled, "nu"), gradtx.get_slot(tx, state, "nu"))
    assert samples.avals(doubled) == samples.avals(state)
    halved = gradtx.set_slot(tx, doubled, "mu", before)
    chex.assert_trees_all_equal(halved, state)
    ones = gradtx.set_slot(tx, state, "nu", 1.0, "b*")
    np.testing.assert_array_equal(gradtx.get_slot(tx, ones, "nu")["bias"], 1)
    np.testing.assert_array_equal(gradtx.get_slot(tx, ones, "nu")["table"], gradtx.get_slot(tx, state, "nu")["table"])
    update = jax.jit(tx.update)
    update(TABLE, state, TABLE)
    for other in (doubled, halved, ones):
        update(TABLE, other, TABLE)
    assert update._cache_size() == 1


def test_slots_with_addresses():
    tx = gradtx.by_path(
        {"bias": gradtx.adam(0.1), "**": gradtx.chain(("body", gradtx.sgd(0.1, 0.9)), gradtx.scope(gradtx.ema(0.5)))}
    )
    _, state = run(tx, TABLE)
    assert np.asarray(gradtx.get_slot(tx, state, "bias.mu")["bias"]).any()
    assert np.asarray(gradtx.get_slot(tx, state, "body.trace")["table"]).any()
    assert np.asarray(gradtx.get_slot(tx, state, "trace")["table"]).any()
    with pytest.raises(ValueError, match=r"'mu' occurs 2 times; say which: bias.mu, "):
        gradtx.get_slot(tx, state, "mu")
    zeroed = gradtx.map_slots(jnp.zeros_like, tx, state, "mu")  # both
    assert not any(np.asarray(x).any() for name, s in samples.slots(zeroed) if name == "mu" for x in jax.tree.leaves(s))


def test_wrappers_have_slots_too():
    tx = gradtx.accumulate_gradients(gradtx.adam(0.1), 4)
    _, state = run(tx, TABLE, 3)
    assert int(gradtx.get_slot(tx, state, "mini_step")) == 3
    mean = gradtx.get_slot(tx, state, "mean")
    np.testing.assert_array_equal(
        gradtx.get_slot(tx, gradtx.map_slots(lambda x: -x, tx, state, "mean"), "mean")["table"], -mean["table"]
    )


def test_reset_leaves_forget():
    tx = gradtx.adam(0.1)
    _, state = run(tx, TABLE)
    after = gradtx.reset_slots(tx, state, TABLE, "bias")
    for slot in ("mu", "nu"):
        np.testing.assert_array_equal(gradtx.get_slot(tx, after, slot)["bias"], 0)
        np.testing.assert_array_equal(
            gradtx.get_slot(tx, after, slot)["table"], gradtx.get_slot(tx, state, slot)["table"]
        )
    assert int(after.count) == 3
    averaged = gradtx.chain(gradtx.sgd(0.1), gradtx.average_parameters(0.9))
    _, state = run(averaged, TABLE)
    moved = jax.tree.map(lambda p: p + 1, TABLE)
    after = gradtx.reset_slots(averaged, state, moved)
    chex.assert_trees_all_equal(after.stages, averaged.init(moved).stages)


# ---- other shapes ----


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "sgd_momentum", "amsgrad", "soap"])
def test_old_rows_of_a_longer_table_go_on(name: str):
    tx = gradtx.sgd(0.1, 0.9) if name == "sgd_momentum" else BY_NAME[name].build()
    _, state = run(tx, TABLE)
    longer = {"table": jnp.concatenate([TABLE["table"], jnp.ones((3, 4))]), "bias": TABLE["bias"]}
    grown = gradtx.carry_state(tx, state, tx, longer)
    assert jax.tree.structure(grown) == jax.tree.structure(tx.init(longer))
    assert samples.avals(grown) == samples.avals(tx.init(longer))
    grads = samples.grads_like(TABLE, 9)
    more = {**grads, "table": jnp.concatenate([grads["table"], jnp.ones((3, 4))])}
    if name in ("adamw", "lion", "sgd_momentum", "amsgrad"):  # where a row does not depend on the others
        plain, _ = tx.update(grads, state, TABLE)
        updates, _ = tx.update(more, grown, longer)
        np.testing.assert_allclose(updates["table"][:6], plain["table"], rtol=2e-6)
        np.testing.assert_allclose(updates["bias"], plain["bias"], rtol=2e-6)
        shrunk = gradtx.carry_state(tx, grown, tx, TABLE)
        chex.assert_trees_all_equal(shrunk, state)


def test_what_new_rows_start_with():
    tx = gradtx.adam(0.1)
    _, state = run(tx, TABLE)
    longer = {**TABLE, "table": jnp.ones((8, 4)), "new": jnp.ones(2)}
    nu = gradtx.get_slot(tx, state, "nu")["table"]
    fresh = gradtx.get_slot(tx, gradtx.carry_state(tx, state, tx, longer), "nu")
    np.testing.assert_array_equal(fresh["table"][6:], 0)
    np.testing.assert_array_equal(fresh["new"], 0)
    mean = gradtx.get_slot(tx, gradtx.carry_state(tx, state, tx, longer, fill="mean"), "nu")
    np.testing.assert_allclose(mean["table"][6:], np.mean(nu), rtol=1e-6)
    largest = gradtx.carry_state(tx, state, tx, longer, fill=lambda new, old: jnp.max(old))
    np.testing.assert_allclose(gradtx.get_slot(tx, largest, "nu")["table"][6:], np.max(nu), rtol=1e-6)


# ---- another chain ----

GAINS = {
    "clipping": (gradtx.adam(0.1), gradtx.chain(gradtx.clip(1e9), gradtx.adam(0.1))),
    "probes": (gradtx.adam(0.1), gradtx.chain(gradtx.gradient_norm(), gradtx.adam(0.1), gradtx.update_norm())),
    "skipping": (gradtx.adam(0.1), gradtx.skip_nonfinite(gradtx.adam(0.1))),
    "injection": (gradtx.adam(0.1), gradtx.inject_hyperparams(gradtx.adam(0.1))),
    "nesting": (gradtx.adam(0.1), gradtx.chain(gradtx.clip(1e9), gradtx.skip_nonfinite(gradtx.adam(0.1)))),
    "another rate": (gradtx.adam(0.3), gradtx.adam(0.1)),
}


@pytest.mark.parametrize(("old", "new"), GAINS.values(), ids=GAINS.keys())
@pytest.mark.parametrize("back", [False, True])
def test_a_chain_that_gains_or_loses_a_stage(old: Any, new: Any, back: bool):
    if back:
        old, new = new, old
    _, state = run(old, TABLE)
    carried = gradtx.carry_state(old, state, new, TABLE)
    assert samples.avals(carried) == samples.avals(new.init(TABLE))
    expected, _ = run(gradtx.adam(0.1), TABLE, 5)
    updates, _ = run(
        new.replace(learning_rate=0.1) if back and "inject" not in repr(new) else new, TABLE, 2, carried, seed=3
    )
    chex.assert_trees_all_close(updates, expected, rtol=2e-6)


def test_from_one_storage_to_another():
    plain, coded = gradtx.adam(0.1), gradtx.with_storage(gradtx.adam(0.1), mu="bfloat16", nu="bfloat16", min_size=0)
    _, state = run(plain, TABLE)
    there = gradtx.carry_state(plain, state, coded, TABLE)
    assert {x.dtype for x in jax.tree.leaves(there.stages)} == {jnp.dtype(jnp.bfloat16)}
    back = gradtx.carry_state(coded, there, plain, TABLE)
    chex.assert_trees_all_close(back, state, rtol=2**-8)


def test_a_schedule_that_begins_anew():
    falling = schedules.linear_schedule(1.0, 0.0, 10)
    tx = gradtx.chain(
        gradtx.skip_nonfinite(gradtx.adam(falling, b1=schedules.linear_schedule(0.5, 0.9, 5))), gradtx.scale(falling)
    )
    _, state = run(tx, TABLE, 6)
    again = gradtx.warm_restart(tx, state)
    before, after = gradtx.hyperparams(tx, state), gradtx.hyperparams(again, state)
    np.testing.assert_allclose([before["learning_rate"], before["step_size"]], 0.4, rtol=1e-6)
    assert float(after["learning_rate"]) == float(after["step_size"]) == 1.0
    assert float(after["b1"]) == float(before["b1"])  # the weight of the average goes on
    _, later = run(again, TABLE, 3, state)
    np.testing.assert_allclose(gradtx.hyperparams(again, later)["learning_rate"], 0.7, rtol=1e-6)
    twice = gradtx.warm_restart(again, later)
    assert "shifted(shifted" not in repr(twice)
    assert float(gradtx.hyperparams(twice, later)["learning_rate"]) == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tx, s: gradtx.get_slot(tx, s, "mmu"), KeyError, "no slot 'mmu'.*it has mu, nu; did you mean 'mu'"),
        (lambda tx, s: gradtx.map_slots(jnp.abs, tx, s, "mu", "w"), ValueError, "no leaf with such a slot matches 'w'"),
        (
            lambda tx, s: gradtx.set_slot(tx, s, "mu", jnp.ones(3), "table"),
            ValueError,
            r"leaf table: expected.*\(6, 4\)",
        ),
        (lambda tx, s: gradtx.set_slot(tx, s, "mu", {"bias": jnp.ones(4)}), ValueError, "leaf table: expected a value"),
        (
            lambda tx, s: gradtx.carry_state(tx, s, tx, {"table": jnp.ones(6)}),
            ValueError,
            "leaf table: expected 1 axes",
        ),
        (lambda tx, s: gradtx.carry_state(gradtx.sgd(0.1), s, tx, TABLE), ValueError, "found 0"),
        (lambda tx, s: schedules.shifted(0.1, -1), ValueError, "expected a number of steps"),
    ],
)
def test_what_cannot_be_done(call: Any, error: Any, message: str):
    tx = gradtx.adam(0.1)
    with pytest.raises(error, match=message):
        call(tx, tx.init(TABLE))


def test_optax_stages_go_on():
    old = gradtx.chain(optax.trace(0.9), gradtx.scale(-0.1))
    _, state = run(old, TABLE)
    new = gradtx.chain(gradtx.clip(1e9), *old.stages)
    carried = gradtx.carry_state(old, state, new, TABLE)
    chex.assert_trees_all_equal(carried.stages[1], state.stages[0])
