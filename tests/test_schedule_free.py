"""Schedule-Free: where its average is, and that it is kept where Optax loses it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")

TREE = samples.params()


def train(tx, params, steps, seed=0):
    """Every pair of parameters and state."""
    state, seen = tx.init(params), []
    update = jax.jit(tx.update)
    for i in range(steps):
        updates, state = update(samples.grads_like(params, seed + i), state, params)
        params = gradtx.apply_updates(params, updates)
        seen.append((params, state))
    return seen


def z_of(state):
    return optax.tree.get(state, "z")


def test_the_average_is_the_mean_of_the_iterates():
    tx = gradtx.schedule_free_sgd(0.1)
    seen = train(tx, TREE, 30)
    iterates = [z_of(state) for _, state in seen]
    for t in (0, 1, 9, 29):
        expected = jax.tree.map(lambda *z: np.mean(np.stack(z).astype(np.float64), 0), *iterates[: t + 1])
        found = gradtx.schedule_free_eval_params(seen[t][1], seen[t][0])
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6)


def test_before_the_first_step_the_average_is_the_parameters():
    for tx in (gradtx.schedule_free_adamw(), gradtx.chain(gradtx.clip(1.0), gradtx.schedule_free_sgd())):
        for a, b in zip(
            jax.tree.leaves(gradtx.schedule_free_eval_params(tx.init(TREE), TREE)), jax.tree.leaves(TREE), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_the_average_at_any_depth_and_beside_other_groups():
    tx = gradtx.skip_nonfinite(
        gradtx.by_path({"block/**": gradtx.schedule_free_sgd(0.1), "pair/**": gradtx.schedule_free_adamw(), "**": gradtx.sgd(0.1)})
    )  # fmt: skip
    params, state = train(tx, TREE, 3)[-1]
    average = gradtx.schedule_free_eval_params(state, params)
    assert samples.avals(average) == samples.avals(params)
    assert average["nested"] is not None
    np.testing.assert_array_equal(average["nested"]["scalar"], params["nested"]["scalar"])
    for group in ("block", "pair"):
        pairs = zip(jax.tree.leaves(average[group]), jax.tree.leaves(params[group]), strict=True)
        assert all(np.any(a != b) for a, b in pairs)
    with pytest.raises(ValueError, match="found none"):
        gradtx.schedule_free_eval_params(gradtx.sgd(0.1).init(TREE), TREE)


def test_around_optax_and_inside_it():
    ours = gradtx.schedule_free(optax.sgd(0.1), 0.1)
    theirs = optax.chain(optax.identity(), gradtx.schedule_free_sgd(0.1))
    for tx in (ours, theirs):
        (params, state), (expected, other) = train(tx, TREE, 5)[-1], train(gradtx.schedule_free_sgd(0.1), TREE, 5)[-1]
        found, right = (
            gradtx.schedule_free_eval_params(state, params),
            gradtx.schedule_free_eval_params(other, expected),
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rate", [1e-25, 1e-3, 1e15])
def test_weights_of_any_size(rate):
    """A square of the rate that is no float32 weighs like any other: c = 1/t."""
    stage = gradtx.average_iterates(rate)
    params, state = jnp.zeros(1), gradtx.average_iterates(rate).init(jnp.zeros(1))
    for _ in range(100):
        updates, state = stage.update(jnp.ones(1), state, params)
        params = params + updates
    # z = t, and the mean of 1..100 is 50.5.
    np.testing.assert_allclose(gradtx.schedule_free_eval_params(state, params), 50.5, rtol=1e-5)


def test_the_sum_of_weights_after_a_million_steps():
    stage = gradtx.average_iterates(gradtx.schedules.linear_schedule(1e-4, 1e-1, 1_000_000))
    x = jnp.zeros(1)
    run = jax.jit(lambda state: jax.lax.fori_loop(0, 1_000_000, lambda _, s: stage.update(x, s, x)[1], state))
    memory = run(stage.init(x)).stages[0]
    rates = np.linspace(1e-4, 1e-1, 1_000_000, endpoint=False) ** 2
    unit = 2.0 ** (2 * np.floor(np.log2(rates[-1] ** 0.5)))
    np.testing.assert_allclose(np.sum(np.float64(memory["weight_sum"])), np.sum(rates) / unit, rtol=1e-6)


def test_bfloat16_parameters_keep_their_weights():
    """Optax keeps the sum of weights in bfloat16, where 256 + 1 is 256: its average stops becoming one."""
    params = jnp.zeros(1, jnp.bfloat16)
    sums = []
    for tx in (gradtx.average_iterates(1.0), optax.contrib.schedule_free(optax.identity(), 1.0)):
        state = tx.init(params)
        with jax.numpy_dtype_promotion("standard"):
            state = jax.jit(
                lambda s, tx=tx: jax.lax.fori_loop(0, 1000, lambda _, s: tx.update(params, s, params)[1], s)
            )(state)
        sums.append(float(jnp.sum(optax.tree.get(state, "weight_sum").astype(jnp.float32))))
    assert sums == [1000, 256]


def test_b1_that_changes_keeps_the_average():
    """y = (1 - b1) z + b1 x with the new b1, and x goes on being the mean."""
    tx = gradtx.schedule_free_sgd(0.1, b1=gradtx.schedules.linear_schedule(0.5, 0.95, 10))
    seen = train(tx, TREE, 20)
    iterates = [z_of(state) for _, state in seen]
    expected = jax.tree.map(lambda *z: np.mean(np.stack(z).astype(np.float64), 0), *iterates)
    found = gradtx.schedule_free_eval_params(seen[-1][1], seen[-1][0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6)


def test_b1_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"b1=.*in \(0, 1\), got 0"):
        gradtx.schedule_free_sgd(0.1, b1=0.0)


def test_small_rates_find_the_minimum_that_momentum_finds():
    """An ill-conditioned quadratic: the average descends further than the last iterate of plain descent."""
    scales = jnp.logspace(0, -2, 20)
    loss = lambda p: 0.5 * jnp.sum(scales * p**2)  # noqa: E731

    def run(tx):
        params = jnp.ones(20)
        state = tx.init(params)
        for _ in range(200):
            params, state = gradtx.step(tx, params, state, scales * params, donate=False)
        return params, state

    params, state = run(gradtx.schedule_free_sgd(1.5, warmup_steps=10))
    assert loss(gradtx.schedule_free_eval_params(state, params)) < 0.02 * loss(jnp.ones(20))
