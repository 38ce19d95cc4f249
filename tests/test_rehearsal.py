"""Steps compiled for TPUs that are not there, and programs' collectives read off their text."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import on_tpus, printed
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from gradtx._cli import main
from gradtx._rehearsal import targets
from gradtx._rehearsal.collectives import Collective, collectives
from gradtx._rehearsal.report import show_bytes
from gradtx._rehearsal.surprises import gathered_again

# As XLA writes them: a TPU's reduce-scatter and asynchronous gather, a GPU's pair, a loop, groups in four notations.
TPU = """HloModule jit_f, is_scheduled=true

%all-reduce-scatter (input: f32[2048,4096]) -> f32[2048,512] {
  %input = f32[2048,4096]{1,0:T(8,128)} parameter(0)
  %all-reduce.12 = f32[2048,4096]{1,0:T(8,128)} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.20 = f32[2048,512]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.12, %c, %d), dynamic_slice_sizes={2048,512}
}

%async_start (param_0: bf16[8,16]) -> bf16[8,128] {
  %param_0 = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,128]{1,0} all-gather(%param_0), channel_id=4, replica_groups=mesh['axis_0'=4,'axis_1'=8] {'axis_1'}, dimensions={1}, metadata={op_name="jit(f)/gather"}
}

%async_done (param_0: bf16[8,16]) -> bf16[8,128] {
  %param_0 = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,128]{1,0} all-gather(%param_0), channel_id=4, replica_groups=mesh['axis_0'=4,'axis_1'=8] {'axis_1'}, dimensions={1}, metadata={op_name="jit(f)/gather"}
}

%body (arg: (s32[], f32[64])) -> (s32[], f32[64]) {
  %arg = (s32[], f32[64]) parameter(0)
  %x = f32[64]{0} get-tuple-element(%arg), index=1
  %all-reduce.5 = (f32[64]{0}, f32[]) all-reduce(%x, %y), channel_id=9, replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="jit(f)/while/body/psum"}
}

%condition (arg: (s32[], f32[64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: f32[2048,4096]) -> f32[2048,512] {
  %p = f32[2048,4096]{1,0:T(8,128)} parameter(0)
  %while = (s32[], f32[64]) while(%t), condition=%condition, body=%body
  %all-reduce.7 = (f32[8]{0}, f32[4]{0}) all-reduce(%r, %s), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %start = bf16[8,128]{1,0} fusion(%q), kind=kCustom, calls=%async_start
  %done = bf16[8,128]{1,0} fusion(%q), kind=kCustom, calls=%async_done
  ROOT %fusion = f32[2048,512]{1,0:T(8,128)S(1)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter, metadata={op_name="jit(f)/dot_general"}
}
"""
GPU = """HloModule jit_f

ENTRY %main (p: f32[16]) -> f32[64] {
  %p = f32[16]{0} parameter(0)
  %ag-start = (f32[16]{0}, f32[64]{0}) all-gather-start(%p), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %ag = f32[64]{0} all-gather-done(%ag-start)
  %ar-start = (f32[64]{0}, f32[2]{0}) all-reduce-start(%ag, %r), channel_id=3, replica_groups=[1,4]<=[4], to_apply=%add
  %again-start = ((f32[64]{0}, f32[2]{0}), (f32[64]{0}, f32[2]{0})) all-reduce-start(%ag, %r), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
  %q = f32[64]{0} copy(%ag)
  ROOT %rs = f32[16]{0} reduce-scatter(%q), channel_id=2, replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}, to_apply=%add
}
"""


def test_collectives_of_a_tpu_program():
    assert collectives(TPU) == [
        Collective("reduce-scatter", ("f32[2048,4096]",), 2048 * 4096 * 4, 8, 1, "jit(f)/dot_general"),
        Collective("all-gather", ("bf16[8,128]",), 8 * 128 * 2, 8, 1, "jit(f)/gather"),
        Collective("all-reduce", ("f32[64]", "f32[]"), 65 * 4, 4, 5, "jit(f)/while/body/psum"),
        Collective("all-reduce", ("f32[8]", "f32[4]"), 48, 8, 1, ""),  # of the reduce-scatter's channel
    ]
    sent = [c.sent for c in collectives(TPU)]
    assert sent == [2048 * 4096 * 4 * 7 / 8, 8 * 128 * 2 * 7 / 8, 65 * 4 * 2 * 3 / 4 * 5, 48 * 2 * 7 / 8]


def test_collectives_of_a_gpu_program():
    assert collectives(GPU) == [
        Collective("all-gather", ("f32[64]",), 256, 4, 1, ""),
        Collective("all-reduce", ("f32[64]", "f32[2]"), 264, 4, 1, ""),
        Collective("all-reduce", ("f32[64]", "f32[2]"), 264, 4, 1, ""),
        Collective("reduce-scatter", ("f32[64]",), 256, 4, 1, ""),
    ]


def test_collectives_of_a_program_that_runs_here():
    """What XLA:CPU writes for eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.device_put(jnp.ones((64, 16)), split)
    gather = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, PartitionSpec()))
    assert [c[:4] for c in collectives(gather.lower(x).compile().as_text())] == [
        ("all-gather", ("f32[64,16]",), 4096, 8)
    ]
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    assert [c[:4] for c in collectives(total.lower(x).compile().as_text())] == [("all-reduce", ("f32[16]",), 64, 8)]


REHEARSE = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import gradtx

mesh = gradtx.topology_mesh("v5e:2x4")

def on(shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

params, batch = {"w": on((1024, 2048))}, on((256, 1024), "data")

def rehearse(tx, state, donate=(0, 1), apply=None):
    def step(params, state, batch):
        grads = jax.grad(lambda p: jnp.mean(jnp.square(jnp.tanh(batch @ p["w"]))))(params)
        if apply is None:
            return gradtx.step(tx, params, state, grads)
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state
    report = gradtx.rehearse(jax.jit(step, donate_argnums=donate), params, state, batch)
    print(json.dumps([str(report), report.fits, [c.kind for c in report.collectives], list(report.surprises), report.optimizer_bytes]))

whole = gradtx.adamw(1e-3)
split = gradtx.shard_state(whole, mesh)
rehearse(split, gradtx.abstract_state(split, params))
rehearse(whole, gradtx.abstract_state(whole, params), ())
rehearse(whole, gradtx.abstract_state(split, params), apply=gradtx.apply_updates)
big = {"w": jax.ShapeDtypeStruct((1 << 17, 1 << 15), jnp.float32)}
report = gradtx.rehearse(lambda p, s, g: gradtx.step(whole, p, s, g), big, jax.eval_shape(whole.init, big), big, topology="v5e:2x2")
print(json.dumps([str(report), report.fits, [], list(report.surprises)]))
"""


@on_tpus
def test_a_rehearsal():
    """A good step surprises nobody; one with whole state, one that donates nothing, one that moves its parameters do."""
    good, whole, moving, large = map(json.loads, printed("-c", REHEARSE).splitlines())
    assert good[1:4] == [True, ["reduce-scatter", "all-gather"], []]
    assert (
        0 < good[4] <= 28 * 1024 * 2048 // 8 * 1.01
    )  # AdamW's part of a device; what stays on the chip is not counted
    assert whole[4] <= 28 * 1024 * 2048 * 1.01
    assert "TPU v5 lite: 8 devices of 16.0 GiB; mesh data=8; compiled in" in good[0]
    assert "argument state" in good[0]
    assert "2.0 MiB of 16.0 MiB" in good[0]
    assert "gather_parameters/sharding_constraint" in good[0]
    assert whole[1:3] == [True, ["all-reduce"]]
    assert any("each of the 8 devices along 'data' keeps the same 16.0 MiB of optimizer state" in s for s in whole[3])
    assert any("24.0 MiB of results lie beside the arguments: donate" in s for s in whole[3])
    assert any(
        "w goes in as P() and comes out as P(None, 'data'): the next step compiles again" in s for s in moving[3]
    )
    assert large[1] is False
    assert "no program: RESOURCE_EXHAUSTED" in large[0]
    assert any("along 'data' keeps the same 32.0 GiB of optimizer state" in s for s in large[3])


@on_tpus
def test_from_the_command_line(capsys):
    words = (
        "rehearse sgd --learning-rate 0.1 --momentum 0.9 --topology v5e:2x2 --shapes 1024x512*2,512 --shard-state data"
    )
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "v5e:2x2: 4 devices of 16.0 GiB; mesh data=4" in shown
    assert "1.0 MiB of 4.0 MiB" in shown
    assert "all-gather" in shown
    assert main([*words.replace("1024x512", "1025x513").split(), "--pad"]) == 0
    assert "1.0 MiB of 4.0 MiB" in capsys.readouterr().out
    assert main(["rehearse", "sgd", "--learning-rate", "0.1", "--topology", "v5e:2x2x2", "--shapes", "8"]) == 2
    assert "expected 2 sizes" in capsys.readouterr().err


def test_what_is_gathered_in_steps_is_not_gathered_again():
    """An array on its way over one axis after the other passes through parts, which may look like another argument."""
    mesh = jax.sharding.AbstractMesh((4, 4), ("x", "y"))

    def on(shape: tuple[int, ...], *spec: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    params = {"tall": on((4096, 1024)), "square": on((1024, 1024))}
    tx = gradtx.shard_state(gradtx.sgd(0.1, momentum=0.9), mesh, ("x", "y"))
    arguments = [params, gradtx.abstract_state(tx, params)]
    shapes = ["f32[1024,1024]", "f32[4096,1024]", "f32[256,1024]", "f32[1024,1024]"]
    gathers = [Collective("all-gather", (shape,), 4 << 20, 4, 1, f"gather {i}") for i, shape in enumerate(shapes)]
    assert not list(gathered_again(arguments, tuple(gathers)))
    again = Collective("all-gather", ("f32[1024,1024]",), 4 << 20, 4, 1, "again")
    (line,) = gathered_again(arguments, (*gathers, again))
    assert line.startswith("f32[1024,1024] is gathered 3 times a step, and 1 of the arguments")


@on_tpus
@pytest.mark.parametrize(
    ("topology", "sizes"),
    [
        ("v5e:4x4", [4, 4]),
        ("v5p:2x4x4", [2, 4, 4]),
        ("v6e:1x8", None),
        ("v4:2x2x4", None),
        ("v5e:1x1", None),
        (None, None),
    ],
)
def test_a_mesh_with_an_axis_a_side(topology, sizes):
    """Each axis runs along one side of the slice; one axis where a slice has no two, or a chip two devices."""
    mesh = gradtx.data_mesh(topology)
    devices = jax.devices() if topology is None else targets.devices_of(topology)
    assert set(mesh.devices.flat) == set(devices)
    if sizes is None:
        assert dict(mesh.shape) == {"data": len(devices)}
        return
    assert dict(mesh.shape) == {f"data_{i}": n for i, n in enumerate(sizes)}
    for axis in range(len(sizes)):
        for line in np.moveaxis(mesh.devices, axis, -1).reshape(-1, sizes[axis]):
            assert len({tuple(x for i, x in enumerate(d.coords) if i != axis) for d in line}) == 1


def test_a_compiler_that_is_not_there(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs its compiler: pip install libtpu, or "gradtx\[rehearsal\]"'):
        gradtx.topology_mesh("v5e:2x4")


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (
            "v9:2x2",
            "expected a topology such as 'v5e:2x4', 'v5p:4x4x4' or 'h100:8', of one of v4, v5e, v5p, v6e, a100, h100, h200, "
            "b200; got 'v9:2x2'",
        ),
        ("v5e", "expected a topology such as"),
        ("v5e:2x4x4", "expected 2 sizes, at most 256 chips in all, for v5e"),
        ("v5e:32x32", "at most 256 chips"),
        ("h100:2x2x2", "expected the number of GPUs, h100:8, or hosts and GPUs in each, h100:4x8"),
        ("a100:0", "expected the number of GPUs, a100:8"),
    ],
)
def test_no_such_machine(topology, message):
    with pytest.raises(ValueError, match=message):
        gradtx.topology_mesh(topology)


def test_no_devices_to_compile_for():
    with pytest.raises(ValueError, match="expected arguments on a mesh of devices to compile for"):
        gradtx.rehearse(lambda x: x, jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(TypeError, match="rehearse: expected a function, got 3"):
        gradtx.rehearse(3)


def test_bytes_as_people_read_them():
    assert [show_bytes(n) for n in (0, 1023, 1536, 5 << 20, 95 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "95.0 GiB",
    ]
