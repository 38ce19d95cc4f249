"""Compiling a user's step for machines that are not there."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gradtx._rehearsal import surprises, traffic
from gradtx._rehearsal.collectives import collectives
from gradtx._rehearsal.report import Argument, Rehearsal
from gradtx._rehearsal.targets import arranged, devices_of, memory_of, platform_of
from gradtx._sharding import in_host_memory, to_host_memory


def rehearse(step: Callable[..., Any], *args: Any, topology: str | None = None) -> Rehearsal:
    """Compile a training step for a machine that need not exist, and report what one device of it would do.

    Print the result: the memory of each argument, temporaries, the peak against what the device has, every collective with
    its bytes and the code it comes from, and what surprises: a parameter gathered twice, an all-reduce where a reduce-scatter
    was meant, state that every device keeps, results beside arguments, parameters that come out otherwise than they went in.
    Nothing runs, and nothing is allocated: the arguments may be shapes.

    Args:
        step: the step, jitted (with its donated arguments, shardings and static arguments) or not.
        *args: its arguments as trees of `jax.ShapeDtypeStruct`s, or arrays, with shardings over a mesh of the devices to
            compile for: `topology_mesh("v5p:4x4x4", {"data": 16, "model": 4})`.
        topology: the machine, where the arguments do not say: `"v5e:2x4"`, `"v5p:4x4x4"`, `"h100:8"`. Their shardings, if they
            have some, may then be over any mesh with as many devices. A step that has a mesh of its own inside needs it made of
            these devices: build it with `topology_mesh`.

    Returns:
        A `Rehearsal`. Where the compiler refuses, as for a program that does not fit, its `error` says so.

    Raises:
        ImportError: the compiler is not installed: libtpu for TPUs, the CUDA plugin for GPUs; the message says how to.
        ValueError: there is no such topology, or the arguments' mesh has another number of devices.

    Example:
        import gradtx, jax, jax.numpy as jnp
        mesh = gradtx.topology_mesh("v5e:2x4")
        params = {"w": jax.ShapeDtypeStruct((8192, 8192), jnp.float32, sharding=NamedSharding(mesh, P()))}
        tx = gradtx.shard_state(gradtx.adamw(1e-3), mesh)
        step = jax.jit(lambda p, s, g: gradtx.step(tx, p, s, g), donate_argnums=(0, 1))
        print(gradtx.rehearse(step, params, gradtx.abstract_state(tx, params), params))
    """
    if not callable(step):
        raise TypeError(f"rehearse: expected a function, got {step!r}")
    devices, mesh, args = _placed(args, topology)
    jitted = step if hasattr(step, "trace") else jax.jit(step)
    names = _names(step, args)
    arguments = tuple(
        Argument(
            name,
            sum(map(_bytes, leaves)),
            sum(map(_device_bytes, leaves)),
            sum(_device_bytes(x) for x in leaves if in_host_memory(x.sharding)),
        )
        for name, leaves in ((name, _arrays(arg)) for name, arg in zip(names, args, strict=True))
        if leaves
    )
    arrays = [x for arg in args for x in _arrays(arg)]
    sizes = dict(mesh.shape) if mesh is not None else {}
    about = functools.partial(
        Rehearsal, topology or _kind(devices), len(devices), sizes, memory_of(devices[0]), arguments
    )
    start = time.perf_counter()
    lowered = jitted.trace(*args).lower(lowering_platforms=(platform_of(devices),))
    try:
        compiled = lowered.compile()
    except Exception as error:  # of jaxlib's own type, for what does not fit and for what cannot be compiled
        message = str(error).strip().split("\n\n")[0]
        held = sum(_device_bytes(x) for x in arrays if not in_host_memory(x.sharding))
        said = tuple(surprises.state_left_whole(args, sizes))
        return about(held, 0, 0, 0, 0, 0, 0, (), said, time.perf_counter() - start, message)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    found = tuple(collectives(text))
    results = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), lowered.out_info, compiled.output_shardings
    )
    lines = [
        *surprises.state_left_whole(args, sizes),
        *surprises.gathered_again(args, found),
        *surprises.reduced_whole(args, found),
        *surprises.not_donated(memory.output_size_in_bytes, memory.alias_size_in_bytes, memory.argument_size_in_bytes),
        *surprises.moved(list(args), results),
    ]
    return about(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        device_peak(memory),
        memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes,
        traffic.optimizer_bytes(text),
        found,
        tuple(lines),
        seconds,
        text=text,
    )


def device_peak(memory: Any) -> int:
    """The peak of a compiled program in the memory of one device, in bytes.

    XLA's own counts every memory, so also what lies in the host's: arguments, and results that are not in their place.

    Args:
        memory: of a compiled program, its `memory_analysis()`.
    """
    on_host = memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes - memory.host_alias_size_in_bytes
    return memory.peak_memory_in_bytes - on_host


def _placed(args: tuple[Any, ...], topology: str | None) -> tuple[list[Any], Mesh | None, tuple[Any, ...]]:
    """The devices, the mesh over them, and the arguments on them, as shapes."""
    meshes = []
    for x in (leaf for arg in args for leaf in _arrays(arg)):
        sharding = getattr(x, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh not in meshes:
            meshes.append(sharding.mesh)
    concrete = {m.abstract_mesh for m in meshes if isinstance(m, Mesh)}
    meshes = [m for m in meshes if isinstance(m, Mesh) or m not in concrete]
    if len(meshes) > 1:
        raise ValueError(f"rehearse: expected all arguments on one mesh, got {' and '.join(map(str, meshes))}")
    mesh = meshes[0] if meshes else None
    if topology is None:
        if not isinstance(mesh, Mesh):
            raise ValueError(
                "rehearse: expected arguments on a mesh of devices to compile for (topology_mesh('v5e:2x4')), or topology=..."
            )
        devices = list(mesh.devices.flat)
    else:
        devices = devices_of(topology)
        if mesh is not None and mesh.size != len(devices):
            raise ValueError(
                f"rehearse: {topology} has {len(devices):,} devices, and the arguments' mesh {dict(mesh.shape)} {mesh.size:,}"
            )
        if mesh is not None and not (isinstance(mesh, Mesh) and set(mesh.devices.flat) <= set(devices)):
            mesh = Mesh(arranged(devices, mesh.axis_sizes), mesh.axis_names, axis_types=mesh.axis_types)

    if mesh is None and len(devices) > 1:
        mesh = Mesh(np.array(devices), ("data",))

    def place(x: Any) -> Any:
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            return x
        sharding = getattr(x, "sharding", None)
        where: Any
        if mesh is None:
            where = SingleDeviceSharding(devices[0])
        else:
            spec = sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
            where = NamedSharding(mesh, spec)
        if in_host_memory(sharding):
            where = to_host_memory(where)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where, weak_type=getattr(x, "weak_type", False))

    return devices, mesh, tuple(jax.tree.map(place, arg) for arg in args)


def _names(step: Any, args: tuple[Any, ...]) -> list[str]:
    """What the function calls its arguments."""
    try:
        parameters = list(inspect.signature(step).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [plain[i] if i < len(plain) else str(i) for i in range(len(args))]


def _kind(devices: list[Any]) -> str:
    return str(devices[0].device_kind)


def _arrays(tree: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(tree) if hasattr(x, "shape") and hasattr(x, "dtype")]


def _bytes(x: Any) -> int:
    return math.prod(x.shape) * np.dtype(x.dtype).itemsize


def _device_bytes(x: Any) -> int:
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(tuple(x.shape))
    return math.prod(shape) * np.dtype(x.dtype).itemsize
