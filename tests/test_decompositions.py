"""Decompositions of stacks: right, of single matrices for LAPACK whatever the batching, and shared by a population."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx._primitives.decompositions import anywhere, eigenvectors, orthonormalized, solve_adjoint

STACK = {"**": gradtx.MuonDimensionNumbers(-2, -1)}
BUILD = {
    "soap": lambda rate: gradtx.soap(rate, dimension_numbers=STACK, precondition_frequency=2),
    "kron": lambda rate: gradtx.kron(rate, dimension_numbers=STACK),
    "muon": lambda rate: gradtx.muon(rate, muon_weight_dimension_numbers=STACK, preconditioning="spectral"),
}


def draw(shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    return jnp.asarray(x.astype(dtype))


def adjoint(x):
    return np.swapaxes(np.conj(x), -1, -2)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("stack", [1, 3])
def test_against_numpy(stack, dtype):
    x = draw((stack, 4, 4), 1, dtype)
    h = np.asarray(x) + adjoint(x)
    q = np.asarray(eigenvectors(jnp.asarray(h)))
    diagonal = adjoint(q) @ h @ q
    np.testing.assert_allclose(diagonal, np.eye(4) * np.linalg.eigvalsh(h)[:, None, ::-1], atol=1e-5)
    q = np.asarray(orthonormalized(x))
    np.testing.assert_allclose(adjoint(q) @ q, np.broadcast_to(np.eye(4), q.shape), atol=1e-6)
    np.testing.assert_allclose(np.tril(adjoint(q) @ np.asarray(x), -1), 0, atol=1e-5)
    upper = jnp.triu(x) + 3 * jnp.eye(4, dtype=x.dtype)[None]
    found = np.asarray(solve_adjoint(upper, x))
    np.testing.assert_allclose(adjoint(upper) @ found, x, atol=1e-5)


def test_under_nested_vmap():
    x = draw((2, 3, 4, 5, 5))
    found = jax.vmap(jax.vmap(orthonormalized))(x)
    np.testing.assert_allclose(found, jnp.linalg.qr(x)[0], atol=1e-6)
    same = jax.vmap(solve_adjoint, (None, 0))(jnp.triu(x[0, 0]), x[0])
    np.testing.assert_allclose(same, [solve_adjoint(jnp.triu(x[0, 0]), y) for y in x[0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_derivatives_of_a_solution(dtype):
    q, x, dq, dx = (draw((2, 3, 3), i, dtype) for i in range(4))
    q, dq = jnp.triu(q) + 2 * jnp.eye(3, dtype=q.dtype)[None], jnp.triu(dq)

    def plain(q, x):
        return jax.lax.linalg.triangular_solve(q, x, left_side=True, transpose_a=True, conjugate_a=True)

    def loss(solve, q, x):
        return jnp.sum(jnp.abs(solve(q, x)) ** 2)

    for found, expected in zip(jax.jvp(solve_adjoint, (q, x), (dq, dx)), jax.jvp(plain, (q, x), (dq, dx)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for solve in (solve_adjoint, lambda q, x: jax.vmap(solve_adjoint)(q[None], x[None])[0]):
        found, expected = (jax.grad(functools.partial(loss, f), (0, 1))(q, x) for f in (solve, plain))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def stacked(tx, params):
    return jax.jit(tx.update).lower(params, tx.init(params), params)


def population(tx_of, params):
    txs = jax.vmap(tx_of)(jnp.full(3, 0.1))
    state = jax.vmap(lambda tx: tx.init(params))(txs)

    @jax.jit
    @jax.vmap
    def train(tx, state):
        return jax.lax.scan(lambda s, _: tx.update(params, s, params)[::-1], state, None, 2)

    return train.lower(txs, state)


@pytest.mark.parametrize("how", ["stack", "population"])
@pytest.mark.parametrize("name", BUILD)
def test_lapack_gets_one_matrix_at_a_time(name, how):
    """With a stack, jaxlib 0.10 waits on the threads that it runs on; see `of_stacks`."""
    params = {"a": draw((2, 3, 4))}
    lowered = stacked(BUILD[name](0.1), params) if how == "stack" else population(BUILD[name], params)
    with jax.numpy_rank_promotion("allow"):
        text = lowered.compile({"xla_backend_optimization_level": 0}).as_text()
    calls = re.findall(r"= \(?\w+\[([\d,]+)\].*custom_call_target=\"lapack_", text)
    assert calls
    assert all(shape.split(",")[0] == "1" or shape.count(",") == 1 for shape in calls), calls


PROGRAM = """
import jax, jax.numpy as jnp, gradtx
params = {k: jax.random.normal(jax.random.key(i), (64, 64)) for i, k in enumerate("ab")}
population = jax.vmap(gradtx.soap)(jnp.full(7, 1e-3))
state = jax.vmap(lambda tx: tx.init(params))(population)

@jax.jit
@jax.vmap
def train(tx, state):
    def step(state, t):
        grads = jax.tree.map(lambda p: jnp.roll(p, t, 0) * jnp.cos(t * p), params)
        return tx.update(grads, state, params)[1], None
    return jax.lax.scan(step, state, jnp.arange(20))[0]

jax.block_until_ready(train(population, state))
print("trained")
"""


def test_a_population_of_soap_does_not_hang():
    """It did within a few steps, on as many threads as there are leaves: each decomposition waited for the others'."""
    threads = {"NPROC": "2", "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **threads}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "trained", done.stderr


def test_anywhere_is_one_answer_for_all():
    ask = lambda x: jnp.stack([jnp.asarray(x > 0), anywhere(x > 0)])  # noqa: E731
    np.testing.assert_array_equal(jax.vmap(ask)(jnp.asarray([1.0, -1.0])), [[True, True], [False, True]])
    nested = jax.vmap(jax.vmap(ask))(jnp.asarray([[1.0, -1.0], [-1.0, -1.0]]))
    assert bool(nested[..., 1].all())
    assert not bool(jax.vmap(ask)(-jnp.ones(2))[:, 1].any())


@pytest.mark.parametrize(
    "tx",
    [
        gradtx.chain(gradtx.to_eigenbasis(every=2), gradtx.scale_by_sign(), gradtx.from_eigenbasis()),
        gradtx.scale_by_kron(0.5),
    ],
    ids=lambda tx: type(tx.stages[0] if hasattr(tx, "stages") else tx).__name__,
)
def test_a_population_shares_its_branches(tx):
    """Decompositions stay conditional under `vmap`, and members at different steps each do what is theirs."""
    grads = [draw((3, 4), i) for i in range(4)]
    states, update = [tx.init(grads[0])], jax.jit(tx.update)
    for g in grads[:3]:
        states.append(update(g, states[-1])[1])
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    for_all = jax.vmap(tx.update, (None, 0))
    found = jax.jit(for_all)(grads[3], together)
    apart = [update(grads[3], state) for state in states]
    expected = jax.tree.map(lambda *x: jnp.stack(x), *apart)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)

    def unconditional(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            if equation.primitive.name != "cond":
                for value in equation.params.values():
                    inner = getattr(value, "jaxpr", value)
                    if hasattr(inner, "eqns"):
                        yield from unconditional(inner)

    names = set(unconditional(jax.make_jaxpr(for_all)(grads[3], together).jaxpr))
    assert "cond" in names
    assert not {"eigh", "qr", "householder_product", "geqrf", "triangular_solve", "linear_solve"} & names
