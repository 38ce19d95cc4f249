"""What Optax's users do that a stricter library might refuse: empty states, slots as attributes, functions in loops."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx._core.functions import LIMIT, watch

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


def test_a_keyword_that_is_missing_is_said_first():
    tx = gradtx.scale_by_polyak()
    with pytest.raises(TypeError, match="needs the keyword value="):
        tx.update({"other": jnp.ones(3)}, tx.init(PARAMS), PARAMS)
