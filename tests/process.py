"""What test_processes.py runs, in one process or as one of several: a few steps of training with a split state.

python process.py COORDINATOR PROCESSES PROCESS OUT
"""

from __future__ import annotations

import os
import pathlib
import pickle
import sys
from typing import Any

DEVICES = 4


def train(devices: list[Any]) -> dict[str, Any]:
    """The parameters and states after three steps, each array as the parts that this process has: `[(index, part)]`."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    import gradtx

    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.tanh(x @ params["up"] + params["bias"][None]) @ params["down"] - x))

    def parts(x: jax.Array) -> list[tuple[Any, Any]]:
        return [([(s.start, s.stop) for s in p.index], np.asarray(p.data)) for p in x.addressable_shards]

    rng = np.random.default_rng(0)
    shapes = {"up": (16, 24), "bias": (24,), "down": (24, 16)}
    start = {k: rng.normal(size=s).astype(np.float32) / 4 for k, s in shapes.items()}
    batches = rng.normal(size=(3, 32, 16)).astype(np.float32)
    found: dict[str, Any] = {}
    for name, tx in {
        "adamw": gradtx.chain(gradtx.clip_by_global_norm(0.1), gradtx.adamw(1e-2)),
        "noise": gradtx.noisy_sgd(1e-2),
    }.items():
        sharded = gradtx.shard_state(tx, mesh, min_size=32)

        @jax.jit
        def step(params: Any, state: Any, x: jax.Array, tx: Any = sharded) -> Any:
            return gradtx.step(tx, params, state, jax.grad(loss)(params, x))

        params = {k: put(x, replicated) for k, x in start.items()}
        state = sharded.init(params)
        for x in batches:
            params, state = step(params, state, put(x, split))
        found[name] = jax.tree.map(parts, (params, state))
        assert all(x.sharding.is_fully_replicated for x in params.values())
        if name == "adamw":
            assert state.stages[1]["mu"]["up"].addressable_shards[0].data.size == 16 * 24 // DEVICES
    found["padded"] = jax.tree.map(parts, padded(put, replicated, rng))
    return found


def padded(put: Any, replicated: Any, rng: Any) -> Any:
    """Parameters that no device divides, and their state: padded, and cut again."""
    import numpy as np

    import gradtx

    inside = gradtx.adamw(1e-2)
    tx = gradtx.shard_state(inside, replicated.mesh, min_size=8, pad=True)
    values = rng.normal(size=(3, 9, 7)).astype(np.float32)
    params = {"odd": put(values[0], replicated)}
    state = tx.init(params)
    for g in values[1:]:
        params, state = gradtx.step(tx, params, state, {"odd": put(g, replicated)})
    assert state.stages[0]["mu"]["odd"].shape == (12, 7)
    assert params["odd"].sharding.is_fully_replicated
    return params, state, gradtx.repad_state(state, inside, params)


def main(coordinator: str, processes: int, process: int, out: pathlib.Path) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process, initialization_timeout=120)
    assert (jax.process_count(), jax.local_device_count()) == (processes, DEVICES // processes)
    found = train(jax.devices())
    out.with_suffix(".part").write_bytes(pickle.dumps(found))
    out.with_suffix(".part").rename(out)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]))
