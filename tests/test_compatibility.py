"""What Optax's users do that a stricter library might refuse: empty states, slots as attributes, functions in loops."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx._core.functions import LIMIT, watch
from gradtx._core.plan import plan_for

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": jnp.array([3.0, -4.0])}


@pytest.mark.parametrize("empty", [None, (), {}, optax.EmptyState(), (optax.EmptyState(), optax.EmptyState())])
def test_stages_that_keep_nothing_take_any_empty_state(empty):
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.scale(-2.0))
    updates, state = tx.update(PARAMS, empty)
    np.testing.assert_allclose(updates["w"], [-1.2, 1.6], rtol=1e-6)
    assert state is empty


@pytest.mark.parametrize(
    "tx",
    [
        gradtx.adam(0.1),
        gradtx.scale_by_schedule(gradtx.schedules.linear_schedule(1.0, 0.0, 10)),
        gradtx.sgd(gradtx.schedules.linear_schedule(1.0, 0.0, 10)),
        gradtx.chain(optax.adam(0.1)),
    ],
    ids=["moments", "schedule", "rate", "foreign"],
)
def test_stages_that_remember_ask_for_their_state(tx):
    with pytest.raises(ValueError, match="expected the state of a chain"):
        tx.update(PARAMS, None)


def test_a_slot_of_one_stage_is_an_attribute_of_the_state():
    state = gradtx.adamw(0.1).init(PARAMS)
    assert state.mu is state.stages[0]["mu"]
    assert not hasattr(state, "trace")
    with pytest.raises(AttributeError, match="no single 'trace'; the stages keep mu, nu"):
        state.trace  # noqa: B018
    twice = gradtx.chain(gradtx.adam(0.1), gradtx.scope(gradtx.ema_first_moment(0.9))).init(PARAMS)
    with pytest.raises(AttributeError, match="no single 'mu'; 2 stages keep one"):
        twice.mu  # noqa: B018


def test_a_function_made_in_a_loop_is_warned_of_once():
    watched = gradtx.skip_nonfinite(gradtx.sgd(0.1))
    state = watched.init(PARAMS)

    def once(p):
        return p

    kept = [[("value_fn", lambda p: p)] for _ in range(2 * LIMIT)]  # as the caches of compiled steps keep them
    with pytest.warns(UserWarning, match=r"value_fn= was 32 different functions from .*compatibility.py") as found:
        _ = [watch(keywords) for keywords in kept]
    assert len(found) == 1
    for _ in range(2 * LIMIT):  # and never again, nor of one and the same
        watch([("value_fn", once), ("value", 1.0)])
    updates, _ = watched.update(PARAMS, state, PARAMS, value_fn=once)
    assert updates["w"].shape == (2,)


THRESHOLDS = [1]  # which may change


def masked(mask: Any) -> Any:
    return gradtx.adamw(0.1, mask=mask)


@pytest.mark.parametrize(
    ("make", "same"),
    [
        (lambda n: masked(lambda params: jax.tree.map(lambda p: p.ndim > 1, params)), True),
        (lambda n: masked(lambda path, leaf: leaf.ndim > n[0]), False),  # a list may change
        (lambda n: masked(lambda path, leaf, k=1: leaf.ndim > k), True),
        (lambda n, k=1: masked(lambda path, leaf: leaf.ndim > k), False),
        (lambda n: masked(lambda path, leaf: leaf.ndim in THRESHOLDS), False),
        (lambda n: gradtx.by_path({lambda path, leaf: leaf.ndim > 1: gradtx.sgd(0.1), "**": "frozen"}), True),
        (lambda n: gradtx.adam(lambda count: 0.1 / (1 + count)), True),
        (lambda n: gradtx.adam(optax.cosine_decay_schedule(0.1, 100)), False),  # variables of two calls
    ],
)
def test_functions_made_anew_are_one_where_that_is_certain(make: Any, same: bool):
    some = [make([1]) for _ in range(3)]
    assert all((a == b) is same and (hash(a) == hash(b) or not same) for a, b in itertools.combinations(some, 2))


def test_functions_that_differ_stay_apart():
    def make(k):
        return masked(lambda path, leaf, k=k: leaf.ndim > k)

    one = make(1)
    assert one == make(1)
    assert one not in (make(2), make(True), make(1.0))
    zero = make(0.0)
    assert zero != make(-0.0)


def test_a_variable_that_changes_makes_another_mask():
    tree, state, sizes = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, None, []
    for axes in (0, 0, 1):
        tx = gradtx.chain(gradtx.decoupled_weight_decay(1.0, lambda path, leaf: leaf.ndim > axes))  # noqa: B023
        state = tx.init(tree) if state is None else state
        updates, state = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, tree), state, tree)
        sizes.append((tx, float(updates["b"].sum())))
    assert sizes[0] == sizes[1]
    assert sizes[2] != sizes[1]
    assert [size for _, size in sizes] == [2.0, 2.0, 0.0]


def test_a_loop_with_a_mask_of_its_own_compiles_once_and_keeps_nothing():
    tree = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state = gradtx.adamw(0.1, mask=None).init(tree)
    plan_for.cache_clear()
    traces = jax.jit(chex.assert_max_traces(lambda tx, s: tx.update(tree, s, tree), n=1))
    for _ in range(5):
        _, state = traces(masked(lambda params: jax.tree.map(lambda p: p.ndim > 1, params)), state)
    assert plan_for.cache_info().currsize == 1
    held = [weakref.ref(make_mask([1])) for _ in range(3)]
    gc.collect()
    assert not any(ref() for ref in held)


def make_mask(kept: Any) -> Any:
    masked(mask := lambda path, leaf: leaf.ndim in kept)
    return mask


def test_masks_that_differ_in_a_loop_are_warned_of():
    masks = [make_mask([k]) for k in range(LIMIT)]
    tree = {"w": jnp.ones(2)}
    with pytest.warns(
        UserWarning, match=r"mask= was 32 different functions .*outside of the loop, and let what it dep"
    ):
        _ = [masked(mask).init(tree) for mask in masks]


def test_a_keyword_that_is_missing_is_said_first():
    tx = gradtx.scale_by_polyak()
    with pytest.raises(TypeError, match="needs the keyword value="):
        tx.update({"other": jnp.ones(3)}, tx.init(PARAMS), PARAMS)
