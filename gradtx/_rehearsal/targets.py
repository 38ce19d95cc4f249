"""Machines to compile for that need not exist: TPU slices and GPUs by name."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from gradtx._rehearsal import gpus

# Read when libtpu loads: do not look for a TPU, nor for the lock file that keeps it to one process.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
    """A kind of TPU chip.

    Attributes:
        dimensions: of the grid that its slices are cut from.
        largest: chips in its largest slice; libtpu ends the process for larger ones.
        memory: bytes of HBM for one device as JAX counts them; a v4 chip is two.
    """

    dimensions: int
    largest: int
    memory: int


# Google Cloud's pages on each version.
CHIPS = {
    "v4": Chip(3, 4096, 16 << 30),
    "v5e": Chip(2, 256, 16 << 30),
    "v5p": Chip(3, 8960, 95 << 30),
    "v6e": Chip(2, 256, 32 << 30),
}


def parse(topology: str) -> tuple[str, tuple[int, ...]]:
    """The chip and the grid of a name such as `v5p:4x4x4`, or the GPU and how many of `h100:8`, in hosts of 8 `h100:4x8`.

    Raises:
        ValueError: it is no such name, or that chip has no such slices.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology) if isinstance(topology, str) else None
    if match is None or match[1] not in {**CHIPS, **gpus.GPUS}:
        raise ValueError(
            f"expected a topology such as 'v5e:2x4', 'v5p:4x4x4' or 'h100:8', of one of {', '.join([*CHIPS, *gpus.GPUS])}; "
            f"got {topology!r}"
        )
    name, grid = match[1], tuple(map(int, match[2].split("x")))
    if name in gpus.GPUS:
        if len(grid) > 2 or not math.prod(grid):
            raise ValueError(
                f"topology {topology!r}: expected the number of GPUs, {name}:8, or hosts and GPUs in each, {name}:4x8"
            )
        return name, grid
    chip = CHIPS[name]
    if len(grid) != chip.dimensions or not 0 < math.prod(grid) <= chip.largest:
        raise ValueError(
            f"topology {topology!r}: expected {chip.dimensions} sizes, at most {chip.largest:,} chips in all, for {name}"
        )
    return name, grid


def devices_of(topology: str) -> list[Any]:
    """The devices of a TPU slice, or GPUs, to compile for.

    Raises:
        ImportError: the compiler is not installed: libtpu, or the CUDA plugin and NVIDIA's assembler.
        ValueError: there is no such slice.
    """
    name, grid = parse(topology)
    if name in gpus.GPUS:
        return list(gpus.devices(name, *((1, *grid) if len(grid) == 1 else grid)))
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError('compiling for a TPU needs its compiler: pip install libtpu, or "gradtx[rehearsal]"')
    return list(_devices(topology))


@functools.lru_cache(maxsize=64)
def _devices(topology: str) -> tuple[Any, ...]:
    """The same objects each time: to JAX the devices of two descriptions of one slice are different ones."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of a type of its own for each cause
        raise ValueError(f"topology {topology!r}: libtpu refuses it: {error}") from error


def topology_mesh(topology: str, axes: dict[str, int] | None = None, *, explicit: bool = False) -> Mesh:
    """A mesh over a TPU slice, or over GPUs, that need not be there, to compile programs for.

    Args:
        topology: the slice: `"v5e:2x4"`, `"v5p:4x4x4"`, `"v6e:16x16"`, `"v4:2x2x4"`; or a GPU and how many, `"h100:8"`, or
            hosts and GPUs in each, `"h100:4x8"`; also `a100`, `h200`, `b200`.
        axes: the sizes of the mesh's axes, by name; their product is the number of devices. None is one axis, `"data"`.
        explicit: whether shardings over the axes are part of the arrays' types.

    Raises:
        ImportError: libtpu, or the CUDA plugin, is not installed; the message says what to install.
        ValueError: there is no such slice, or the sizes do not fit it.
    """
    devices = devices_of(topology)
    axes = {"data": len(devices)} if axes is None else dict(axes)
    if math.prod(axes.values()) != len(devices):
        raise ValueError(
            f"topology_mesh: {topology} has {len(devices):,} devices, and the axes {axes} need {math.prod(axes.values()):,}"
        )
    kind = AxisType.Explicit if explicit else AxisType.Auto
    return Mesh(arranged(devices, tuple(axes.values())), tuple(axes), axis_types=(kind,) * len(axes))


def data_mesh(topology: str | None = None, *, explicit: bool = False) -> Mesh:
    """A mesh of all devices for data parallelism, with an axis for each side of a TPU slice: `data_0`, `data_1`, ...

    For TPUs: their compiler reduces and scatters along one side of a slice, and sums whole arrays along several at once. Split
    batches over all axes, `PartitionSpec(mesh.axis_names)`, and state with `shard_state(tx, mesh, mesh.axis_names)`, which goes
    along one after the other. Elsewhere it has one axis, `data`.

    Args:
        topology: a slice or GPUs to compile for, as in `topology_mesh`; None is the devices that are there, `jax.devices()`.
        explicit: whether shardings over the axes are part of the arrays' types.

    Raises:
        ImportError, ValueError: as `topology_mesh`.
    """
    devices = jax.devices() if topology is None else devices_of(topology)
    places = [tuple(getattr(device, "coords", None) or ()) for device in devices]
    sides = [n for along in zip(*places, strict=True) if (n := max(along) - min(along) + 1) > 1]
    names: tuple[str, ...] = ("data",)
    grid = arranged(devices, (len(devices),))
    if len(sides) > 1 and math.prod(sides) == len(set(places)) == len(devices):  # no holes, a device a chip
        names = tuple(f"data_{i}" for i in range(len(sides)))
        by_place = sorted(zip(places, range(len(devices)), strict=True))
        grid = np.array([devices[i] for _, i in by_place], object).reshape(sides)
    kind = AxisType.Explicit if explicit else AxisType.Auto
    return Mesh(grid, names, axis_types=(kind,) * len(names))


def arranged(devices: list[Any], sizes: tuple[int, ...]) -> Any:
    """Devices so that neighbours on the mesh are neighbours on the grid, where that can be."""
    from jax.experimental import mesh_utils

    try:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError):
        return np.array(devices).reshape(sizes)


def memory_of(device: Any) -> int | None:
    """The bytes of memory of a device, where its kind is known."""
    kinds = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
    known: dict[str, int] = {kind: CHIPS[name].memory for kind, name in kinds.items()}
    known |= {gpu.description: gpu.memory for gpu in gpus.GPUS.values()}
    return known.get(device.device_kind)


def platform_of(devices: list[Any]) -> str:
    """What programs for these devices are lowered for."""
    platform = str(getattr(devices[0], "platform", jax.default_backend()))
    return "cuda" if platform == "gpu" else platform
