"""Hutchinson's estimate of the diagonal of the Hessian."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core.slots import Slot
from gradtx._core.stages import Leaves, Treewise


class estimate_hessian_diagonal(Treewise):
    r"""Replace the update by an estimate of the diagonal of the Hessian: $z \odot (\nabla^2 L z)$ with random signs $z$.

    It is exact where the Hessian is diagonal, and right in the mean. `update` needs the keyword `obj_fn`, the loss as a
    function of the parameters alone: `update(grads, state, params, obj_fn=lambda params: loss(params, batch))`. It is
    static: outside `jit`, pass the same one each time.

    Args:
        seed: what the random signs follow from, with the number of estimates so far: an int, or the data of a key.

    State:
        `draws`: int32, the number of estimates so far.

    Source:
        Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990; as in Liu et al., "Sophia", arXiv:2305.14342, Algorithm 1, with
        signs instead of normal numbers (which have the larger variance).
    """

    seed: Any = 0

    requires: ClassVar[tuple[str, ...]] = ("param",)
    keywords: ClassVar[tuple[str, ...]] = ("obj_fn",)

    def slots(self) -> tuple[Slot, ...]:
        return (Slot("draws", "scalar", dtype=np.dtype(np.int32)),)

    def update_leaves(self, s: SimpleNamespace, leaves: Leaves) -> Leaves:
        params = leaves.everything
        assert params is not None
        data = self.seed
        key = jax.random.key(data) if isinstance(data, int) else jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32))
        key = jax.random.fold_in(key, leaves.memory["draws"])
        signs = [jnp.zeros_like(p) for p in params]
        for i in leaves.indices:
            draw = jax.random.rademacher(jax.random.fold_in(key, i), params[i].shape, np.int8)
            signs[i] = draw.astype(params[i].dtype)

        def loss(leaves_: list[Any]) -> Any:
            return s.obj_fn(jax.tree.unflatten(leaves.treedef, leaves_))

        products = jax.jvp(jax.grad(loss), (params,), (signs,))[1]
        estimates = [
            (products[i] * signs[i]).astype(signal.update.dtype)
            for i, signal in zip(leaves.indices, leaves.signals, strict=True)
        ]
        return leaves.with_updates(estimates).replace(memory={"draws": leaves.memory["draws"] + 1})


def hutchinson_estimator_diag_hessian(random_seed: Any = None) -> estimate_hessian_diagonal:
    """Hutchinson's estimate of the Hessian's diagonal, for `sophia`.

    Args:
        random_seed: an int or a key of `jax.random`; None is 0.

    Returns:
        `estimate_hessian_diagonal(seed)`.
    """
    if random_seed is None or isinstance(random_seed, int):
        return estimate_hessian_diagonal(random_seed or 0)
    typed = jnp.issubdtype(random_seed.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(random_seed) if typed else random_seed)
    return estimate_hessian_diagonal(tuple(int(x) for x in data.ravel()))
