"""Long runs: the same float32 gradients and parameters through an oracle and through a compiled loop of updates."""

import jax
import jax.numpy as jnp
import numpy as np

from reference.arithmetic import median_ulp

CHECKPOINTS = (1, 10, 100, 1_000, 10_000, 100_000)


def gradients(kind, steps, size=64, seed=0):
    """float32 [steps, size]: independent normals, the same with 90% zeros, or one normal repeated."""
    rng = np.random.default_rng(seed)
    if kind == "constant":
        return np.broadcast_to(rng.standard_normal(size).astype(np.float32), (steps, size))
    g = rng.standard_normal((steps, size), np.float32)
    if kind == "sparse":
        g *= rng.random((steps, size), np.float32) < 0.1
    return g


def exact_updates(oracle, grads, params, checkpoints):
    """The oracle's updates at the checkpoints, {t: float64 [size]}. `params` [size] is held, [steps, size] moves."""
    found = {}
    params = np.asarray(params, np.float64)
    for t in range(1, max(checkpoints) + 1):
        p = params if params.ndim == 1 else params[t - 1]
        u = oracle.update(grads[t - 1].astype(np.float64), p)
        if t in checkpoints:
            found[t] = u
    return found


def compiled_updates(tx, grads, params, checkpoints, *, as_argument=False):
    """The same from a transformation, gradtx's or Optax's, closed over or passed as an argument to one jitted loop."""

    def advance(tx, state, u, start, stop, grads, params):
        def body(i, carry):
            p = params if params.ndim == 1 else params[i]
            u, state = tx.update(grads[i], carry[0], p)
            return state, u

        return jax.lax.fori_loop(start, stop, body, (state, u))

    if as_argument:
        run = jax.jit(advance)
    else:
        closed = jax.jit(lambda *rest: advance(tx, *rest))

        def run(tx, *rest):
            return closed(*rest)

    grads, params = jnp.asarray(grads), jnp.asarray(params)
    state, u = tx.init(grads[0]), jnp.zeros_like(grads[0])
    found, done = {}, 0
    for t in sorted(checkpoints):
        state, u = run(tx, state, u, done, t, grads, params)
        found[t], done = np.asarray(u), t
    return found


def errors(found, exact):
    """{t: median error in float32 ULP}."""
    return {t: median_ulp(found[t], exact[t]) for t in exact}
