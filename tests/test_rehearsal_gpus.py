"""Steps compiled for GPUs that are not there, where the CUDA plugin has no CUDA to run with."""

from __future__ import annotations

import json
import re

import jax
import pytest
from compilers import on_gpus, printed

import gradtx
from gradtx._rehearsal import gpus


def test_a_gpu_compiler_that_is_not_there(monkeypatch):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    version = re.escape(jax.__version__)
    with pytest.raises(
        ImportError, match=rf'"jax-cuda12-plugin=={version}" nvidia-cuda-nvcc-cu12, or "gradtx\[rehearsal-cuda'
    ):
        gradtx.topology_mesh("h100:8")
    monkeypatch.setattr(gpus, "is_installed", lambda name: name.startswith("jax_plugins"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ImportError, match="assembler, ptxas, and it is not on the PATH: pip install nvidia-cuda-nvcc-cu12"
    ):
        gradtx.topology_mesh("h100:8")


REHEARSE_ON_GPUS = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import gradtx

mesh = gradtx.topology_mesh(sys.argv[1])
params = {"w": jax.ShapeDtypeStruct((1024, 2048), jnp.float32, sharding=NamedSharding(mesh, P()))}
batch = jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=NamedSharding(mesh, P("data")))
split = gradtx.shard_state(gradtx.adamw(1e-3), mesh)
for tx in (split, gradtx.offload_state(split)):
    def step(params, state, batch):
        grads = jax.grad(lambda p: jnp.mean(jnp.square(jnp.tanh(batch @ p["w"]))))(params)
        return gradtx.step(tx, params, state, grads)
    report = gradtx.rehearse(jax.jit(step, donate_argnums=(0, 1)), params, gradtx.abstract_state(tx, params), batch)
    kinds = {c.kind: [c.nbytes, c.devices] for c in report.collectives}
    sizes = [report.argument_bytes, report.host_bytes, report.peak_bytes, report.argument_bytes + report.temporary_bytes]
    print(json.dumps([str(report), report.fits, kinds, list(report.surprises), *sizes]))
"""


@on_gpus
@pytest.mark.parametrize("topology", ["h100:8", "a100:2x4"])
def test_a_rehearsal_on_gpus(topology):
    """The gradient is reduced and scattered, the parameter gathered; a state in host memory is no argument of the GPU."""
    lines = printed("-c", REHEARSE_ON_GPUS, topology).splitlines()
    size, state = 4 * 1024 * 2048, 2 * 4 * 1024 * 2048 // 8
    split, away = map(json.loads, lines)
    for row in (split, away):
        assert row[1:4] == [True, {"reduce-scatter": [size, 8], "all-gather": [size, 8]}, []]
        assert "8 devices of 79" in row[0]
        assert row[6] <= row[7]  # what lies in host memory is not at the device's peak
    assert (split[5], away[5]) == (0, 2 * state)
    assert split[4] - away[4] == state
    assert "2.0 MiB of 16.0 MiB, 2.0 MiB in host memory" in away[0]


AFTER_OTHER_WORK = """
import jax, jax.numpy as jnp
import gradtx

print(jnp.ones(3).sum())
print(gradtx.topology_mesh("h100:8").devices[0].device_kind)
print(jnp.ones(3).sum(), len(jax.devices()))
"""


@on_gpus
def test_whatever_ran_before():
    """JAX gives the plugin up when it looks for a GPU and CUDA's libraries are not there; compiling needs none of them."""
    first, kind, after = printed("-c", AFTER_OTHER_WORK, platform=None).splitlines()
    assert (kind, after.split()[0]) == ("NVIDIA H100 80GB HBM3", first)


@on_gpus
def test_from_the_command_line():
    words = "-m gradtx rehearse adamw --learning-rate 1e-3 --topology h200:2x8 --shapes 1024x512 --shard-state data"
    shown = printed(*words.split(), platform=None)
    assert "h200:2x8: 16 devices of 141.0 GiB; mesh data=16" in shown
    assert "256.0 KiB of 4.0 MiB" in shown
    assert "all-gather" in shown
