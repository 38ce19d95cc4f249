"""What test_checkpoints.py kills: training that saves every step, and resumes from the last complete checkpoint.

python saving.py FOLDER STEPS
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradtx


def main(folder: pathlib.Path, steps: int) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    tx = gradtx.shard_state(gradtx.accumulate_gradients(gradtx.adamw(1e-2), 2), mesh)
    shapes = {"w": jax.ShapeDtypeStruct((1024, 512), jnp.float32, sharding=whole)}
    manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=3))
    manifest = ocp.args.JsonSave(gradtx.state_manifest(tx, shapes))
    done = manager.latest_step()
    if done is None:
        params = {"w": jax.device_put(np.ones((1024, 512), np.float32), whole)}
        state, done = tx.init(params), 0
    else:
        read = ocp.args.Composite(manifest=ocp.args.JsonRestore())
        gradtx.check_state(tx, shapes, manager.restore(done, args=read)["manifest"])
        wanted = {"params": shapes, "state": gradtx.abstract_state(tx, shapes)}
        restored = manager.restore(done, args=ocp.args.Composite(run=ocp.args.StandardRestore(wanted)))["run"]
        params, state = restored["params"], restored["state"]
    print(f"from {done}", flush=True)
    for step in range(done + 1, steps + 1):
        grads = jax.tree.map(lambda p, step=step: p * jnp.float32(step), params)
        params, state = gradtx.step(tx, params, state, grads, donate=False)
        run = ocp.args.StandardSave({"params": params, "state": state})
        manager.save(step, args=ocp.args.Composite(run=run, manifest=manifest))
        print(f"saving {step}", flush=True)
    manager.wait_until_finished()
    digest = hashlib.sha256()
    for x in jax.tree.leaves((params, state)):
        digest.update(np.asarray(x).tobytes())
    print(f"digest {digest.hexdigest()}", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute(), int(sys.argv[2]))
