"""Inside the frameworks people train with: flax linen and nnx, equinox; and hyperparameters kept in the state."""

from __future__ import annotations

import chex
import equinox as eqx
import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import gradtx
from gradtx import schedules

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
Y = jnp.sum(X, axis=1, keepdims=True)

TXS = [gradtx.adamw(1e-2), gradtx.inject_hyperparams(gradtx.adamw(1e-2)), gradtx.sgd(1e-2, 0.9, nesterov=True)]


@pytest.fixture(autouse=True)
def _lenient():
    # The frameworks' own code is not written for strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("tx", TXS, ids=repr)
def test_flax_train_state(tx):
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), X)
    ts = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(ts):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((ts.apply_fn(p, X) - Y) ** 2))(ts.params)
        return ts.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(30):
        ts, loss = step(ts)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("tx", TXS, ids=repr)
def test_flax_nnx(tx):
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("tx", TXS, ids=repr)
def test_equinox(tx):
    model = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(tx, model, state):
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(30):
        model, state, loss = step(tx, model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    dynamic, static = eqx.partition(tx, eqx.is_array)
    assert eqx.combine(dynamic, static) == tx


# ---- orbax ----

SCHEDULED = schedules.linear_schedule(0.5, 0.9, 20)
SAVED = {
    "adamw": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2)),
    "scheduled": gradtx.sgd(schedules.cosine_decay_schedule(1e-2, 20), SCHEDULED, nesterov=True),
    "groups": gradtx.by_path({"**/bias": gradtx.rmsprop(1e-2, centered=True), "**": gradtx.lion(1e-3)}),
    "injected": gradtx.inject_hyperparams(gradtx.adam(1e-2)),
    "accumulating": gradtx.accumulate_gradients(gradtx.adam(1e-2), 3),
    "half": gradtx.with_storage(gradtx.adamw(1e-2), "half", min_size=1),
    "quarter": gradtx.with_storage(gradtx.adamw(1e-2), "quarter", min_size=1),
    "rounded": gradtx.chain(gradtx.adafactor(1e-2, min_dim_size_to_factor=1), gradtx.compensated()),
    "rotated": gradtx.soap(1e-2),
    "by parts": gradtx.by_path(
        {
            "**/bias": gradtx.chain(gradtx.adam(1e-2), gradtx.stochastic_rounding()),
            "**": gradtx.with_storage(gradtx.muon(1e-2), mu="bfloat16", min_size=1),
        }
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_orbax_restores_the_same_run(name, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    tx = SAVED[name]
    params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1, jnp.bfloat16)}

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((X @ p["kernel"] + p["bias"] - Y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return gradtx.apply_updates(params, updates), state

    def train(params, state, steps):
        for _ in range(steps):
            params, state = step(params, state)
        return params, state

    params, state = train(params, tx.init(params), 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(lambda: params)
        restored = checkpointer.restore(tmp_path / "run", {"params": shapes, "state": jax.eval_shape(tx.init, shapes)})
    assert jax.tree.structure(restored["state"]) == jax.tree.structure(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored["state"], state)
    went_on = train(params, state, 10)
    chex.assert_trees_all_equal(train(restored["params"], restored["state"], 10), went_on)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (went_on[0], params)), strict=True))


# ---- inject_hyperparams ----

TREE = {"w": jnp.array([1.0, -2.0, 3.0])}


def test_injected_numbers_are_read_set_and_not_traced_again():
    tx = gradtx.inject_hyperparams(gradtx.chain(gradtx.clip(1.0), gradtx.adamw(1e-3, weight_decay=0.1)))
    state = tx.init(TREE)
    assert set(state.hyperparams) == {
        "max_delta",
        "b1",
        "b2",
        "initial",
        "eps",
        "eps_root",
        "weight_decay",
        "learning_rate",
    }
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda s: tx.update(TREE, s, TREE), n=1))
    first, state = step(state)
    state.hyperparams["learning_rate"] = jnp.float32(2e-3)
    second, state = step(state)
    state = optax.tree.set(state, learning_rate=4e-3)
    assert float(optax.tree.get(state, "learning_rate")) == pytest.approx(4e-3)
    third, state = step(
        jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if x is state.inner.count else jnp.float32), state)
    )
    for got, factor in ((second, 2.0), (third, 4.0)):
        chex.assert_trees_all_close(got, jax.tree.map(lambda u, f=factor: f * u, first), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_injected_numbers_are_float32_and_lose_nothing(dtype):
    tree = {"w": jnp.array([1.0, -2.0, 3.0], dtype)}
    plain = gradtx.adamw(1e-3)
    injected = gradtx.inject_hyperparams(plain)
    a, b = plain.init(tree), injected.init(tree)
    assert {x.dtype for x in b.hyperparams.values()} == {jnp.dtype(jnp.float32)}
    update, update_injected = jax.jit(plain.update), jax.jit(injected.update)
    for _ in range(20):
        u, a = update(tree, a, tree)
        v, b = update_injected(tree, b, tree)
        chex.assert_trees_all_close(u, v, rtol=2e-7 if dtype == jnp.float32 else 0)
    # A decay that is set replaces the old one.
    b.hyperparams["b1"] = jnp.float32(0.0)
    v, _ = injected.update({"w": -tree["w"]}, b, tree)
    u, _ = plain.update({"w": -tree["w"]}, a, tree)
    assert np.all(np.sign(np.asarray(u["w"], np.float32)) != np.sign(np.asarray(v["w"], np.float32)))


def test_injected_schedules_stay_schedules():
    tx = gradtx.inject_hyperparams(gradtx.adam(schedules.linear_schedule(0.1, 0.0, 10)))
    state = tx.init(TREE)
    assert set(state.hyperparams) == {"b1", "b2", "initial", "eps", "eps_root"}
    first, state = tx.update(TREE, state, TREE)
    second, _ = tx.update(TREE, state, TREE)
    chex.assert_trees_all_close(second, jax.tree.map(lambda u: 0.9 * u, first), rtol=1e-5)


def test_injected_names_that_repeat_are_addresses():
    tx = gradtx.inject_hyperparams(
        gradtx.chain(("front", gradtx.clip(1.0)), gradtx.sgd(0.1), ("back", gradtx.clip(2.0)))
    )
    assert set(tx.init(TREE).hyperparams) == {"front.max_delta", "back.max_delta", "learning_rate"}
    assert repr(tx) == f"inject_hyperparams({tx.tx!r})"


def test_injected_numbers_init_under_jit_and_abstractly():
    tx = gradtx.inject_hyperparams(gradtx.adamw(1e-3))
    state = tx.init(TREE)
    chex.assert_trees_all_equal(jax.jit(tx.init)(TREE), state)
    shapes = jax.eval_shape(tx.init, TREE)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    _, after = tx.update(TREE, state, TREE)
    after.hyperparams["learning_rate"] = jnp.float32(1.0)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(1e-3)
