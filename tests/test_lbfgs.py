"""L-BFGS on functions: against its oracle and Optax step by step, with line searches, to a minimum."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.lbfgs import LBFGS

import gradtx

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def not_strict():
    """Optax's line searches promote implicitly."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def on_a_tree(tree):
    return rosenbrock(jnp.concatenate([tree["a"], tree["b"].ravel()]))


def quadratic(x):
    return 0.5 * jnp.sum(jnp.linspace(1.0, 30.0, x.size).reshape(x.shape) * x * x)


def path(tx, function, params, steps):
    """The parameters after each step."""
    value_and_grad = jax.jit(jax.value_and_grad(function))
    update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v, grad=g, value_fn=function))
    state, found = tx.init(params), []
    for _ in range(steps):
        value, grad = value_and_grad(params)
        updates, state = update(grad, state, params, value)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


@pytest.mark.parametrize("linesearch", ["default", "backtracking", None])
@pytest.mark.parametrize(
    ("function", "start"),
    [
        (on_a_tree, {"a": jnp.array([-1.2, 1.0, 0.5]), "b": jnp.array([[0.3, -0.7], [1.5, 0.2]])}),
        (quadratic, jnp.arange(1.0, 7.0).reshape(2, 3)),
    ],
    ids=["rosenbrock", "quadratic"],
)
@pytest.mark.usefixtures("x64")
def test_optax_step_by_step(function, start, linesearch):
    start = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), start)
    keywords = {"memory_size": 4}
    if linesearch == "backtracking":
        keywords["linesearch"] = gradtx.scale_by_backtracking_linesearch(15)
    elif linesearch is None:
        keywords.update(linesearch=None, learning_rate=1e-3)
    ours = path(gradtx.lbfgs(**keywords), function, start, 15)
    if linesearch == "backtracking":
        keywords["linesearch"] = optax.scale_by_backtracking_linesearch(15)
    theirs = path(optax.lbfgs(**keywords), function, start, 15)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale_init_precond", [True, False])
@pytest.mark.parametrize("memory_size", [1, 3, 10])
@pytest.mark.usefixtures("x64")
def test_two_loops_are_the_product_of_matrices(memory_size, scale_init_precond):
    keywords = {"memory_size": memory_size, "scale_init_precond": scale_init_precond}
    tx, oracle = gradtx.lbfgs(0.05, linesearch=None, **keywords), LBFGS(0.05, **keywords)
    params = jnp.arange(1.0, 7.0, dtype=jnp.float64).reshape(2, 3)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(15):
        grad = jax.grad(quadratic)(params)
        updates, state = update(grad, state, params)
        expected = oracle.update(np.asarray(grad), np.asarray(params))
        np.testing.assert_allclose(updates, expected, rtol=1e-9, atol=1e-12)
        params = params + updates


@pytest.mark.parametrize("size", [2, 10])
def test_rosenbrock_to_its_minimum_in_float32(size):
    tx = gradtx.lbfgs()
    params = jnp.tile(jnp.array([-1.2, 1.0]), size // 2)
    state, value_and_grad = tx.init(params), jax.jit(jax.value_and_grad(rosenbrock))
    for _ in range(100):
        value, grad = value_and_grad(params)
        params, state = gradtx.step(tx, params, state, grad, value=value, grad=grad, value_fn=rosenbrock)
    np.testing.assert_allclose(params, 1.0, atol=2e-3)


def test_value_and_grad_from_the_state():
    """Optax's helper finds in our state what the line search has computed."""
    tx, params = gradtx.lbfgs(), jnp.array([-1.2, 1.0])
    state, value_and_grad = tx.init(params), optax.value_and_grad_from_state(rosenbrock)

    @jax.jit
    def step(params, state):
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        return optax.apply_updates(params, updates), state

    for _ in range(50):
        params, state = step(params, state)
    np.testing.assert_allclose(params, 1.0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_any_units(scale):
    """A loss in other units: the products of its gradients are no float32 numbers, the steps are the same."""
    params = start = jnp.arange(1.0, 7.0)
    tx = gradtx.lbfgs(1.0, linesearch=None)
    state = tx.init(params)
    for step in range(12):
        updates, state = tx.update(scale * jax.grad(quadratic)(params), state, params)
        # The first step is limited in length, and so depends on the unit.
        params = params + updates if step else 0.99 * params
    assert float(quadratic(params)) < 1e-2 * float(quadratic(start))


@pytest.mark.parametrize(
    "tx",
    [gradtx.lbfgs(), gradtx.lbfgs(0.5, linesearch=gradtx.scale_by_backtracking_linesearch(15, store_grad=True))],
    ids=["zoom", "backtracking"],
)
def test_a_line_search_is_data(tx):
    """It prints as what builds it, compares, hashes, pickles, and is addressed by name."""
    assert eval(repr(tx), vars(gradtx)) == tx == pickle.loads(pickle.dumps(tx))
    assert hash(eval(repr(tx), vars(gradtx))) == hash(tx)
    other = tx.replace(slope_rtol=1e-3)
    assert other != tx
    assert "slope_rtol=0.001" in repr(other)
    state = tx.init(jnp.ones(3))
    assert jax.tree.structure(state) == jax.tree.structure(other.init(jnp.ones(3)))


def test_a_line_search_asks_for_what_it_needs():
    tx, params = gradtx.lbfgs(), jnp.ones((3,))
    with pytest.raises(TypeError, match="needs the keyword"):
        tx.update(params, tx.init(params), params, valeu=1.0, value_fn=quadratic)


@pytest.mark.parametrize("size", [0, 2.0, True])
def test_a_memory_that_is_none(size):
    with pytest.raises(ValueError, match="memory_size"):
        gradtx.lbfgs(memory_size=size)
