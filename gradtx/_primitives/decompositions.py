"""Decompositions of stacks of matrices that cannot wait for themselves, and branches that a population shares."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradtx._primitives.matrices import adjoint, product

Array = jax.Array


def of_stacks(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function of stacks of matrices, `[stack, m, n]`, that LAPACK computes, made safe and batched.

    In jaxlib 0.10 LAPACK on a stack shares its matrices out among the threads of XLA:CPU and waits for them, on one of
    these threads. Where as many such calls run at once as there are threads (two leaves on two cores), all wait for
    ever. A single matrix stays on its thread, so on the CPU the matrices go one by one, as in later versions of jaxlib;
    elsewhere the stack is one call. `jax.vmap` would make stacks of single matrices again: here it makes longer stacks.
    """

    def one_by_one(*stacks: Array) -> Array:
        return jax.lax.map(lambda matrices: function(*(x[None] for x in matrices))[0], stacks)

    @jax.custom_batching.custom_vmap
    def run(*stacks: Array) -> Array:
        if stacks[0].shape[0] == 1:
            return function(*stacks)
        return jax.lax.platform_dependent(*stacks, cpu=one_by_one, default=function)

    @run.def_vmap
    def folded(size: int, batched: list[bool], *stacks: Array) -> tuple[Array, bool]:
        wide = [x if mine else jnp.broadcast_to(x, (size, *x.shape)) for x, mine in zip(stacks, batched, strict=True)]
        out = run(*(x.reshape(-1, *x.shape[2:]) for x in wide))
        return out.reshape(size, -1, *out.shape[1:]), True

    return functools.wraps(function)(lambda *stacks: run(*stacks))


@of_stacks
def eigenvectors(x: Array) -> Array:
    """Of Hermitian matrices, as columns, in the order of falling eigenvalues. They have no derivative."""
    return jnp.flip(jnp.linalg.eigh(x)[1], -1)


@of_stacks
def orthonormalized(x: Array) -> Array:
    """The columns of each matrix made orthonormal, from the left on (the Q of its QR decomposition). No derivative."""
    return jnp.linalg.qr(x)[0]


@of_stacks
def _solve(q: Array, x: Array) -> Array:
    return jax.lax.linalg.triangular_solve(q, x, left_side=True)


@of_stacks
def _solve_adjoint(q: Array, x: Array) -> Array:
    return jax.lax.linalg.triangular_solve(q, x, left_side=True, transpose_a=True, conjugate_a=True)


def solve_adjoint(q: Array, x: Array) -> Array:
    r"""$q^{-H} x$ for upper triangular matrices, with derivatives of every kind."""
    return jax.lax.custom_linear_solve(
        lambda y: product(adjoint(jnp.triu(q)), y),
        x,
        solve=lambda _, y: _solve_adjoint(q, y),
        transpose_solve=lambda _, y: _solve(q.conj(), y),
    )


@jax.custom_batching.custom_vmap
def anywhere(yes: Array) -> Array:
    """Whether something holds for any member of a population: under `jax.vmap` one answer for all.

    What stands in a `lax.cond` under this condition is computed only in steps in which a member needs it, where
    `vmap` would else compute both branches in every step. The branch then has to choose for each member.
    """
    return yes


@anywhere.def_vmap
def _of_all(size: int, batched: list[bool], yes: Array) -> tuple[Array, bool]:
    return anywhere(jnp.any(yes, axis=0)), False
