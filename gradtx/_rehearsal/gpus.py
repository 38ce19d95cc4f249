"""NVIDIA GPUs to compile for that need not exist, by name: the figures that XLA's compiler asks for."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax


class Gpu(NamedTuple):
    """A kind of GPU.

    Attributes:
        description: as its driver names it, which is its `device_kind` in JAX.
        capability: CUDA's compute capability.
        cores: streaming multiprocessors.
        lanes: float32 units of each.
        block_memory: bytes of shared memory that one block may ask for.
        core_memory: bytes of shared memory of each core.
        bandwidth: bytes a second to and from its memory.
        cache: bytes of the second-level cache.
        clock: GHz.
        memory: bytes.
    """

    description: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    block_memory: int
    core_memory: int
    bandwidth: int
    cache: int
    clock: float
    memory: int


# NVIDIA's data sheets, and the tables of compute capabilities in the CUDA programming guide.
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 166_912, 167_936, 2_039_040_000_000, 41_943_040, 1.41, 85_100_068_864
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 232_448, 233_472, 3_352_320_000_000, 52_428_800, 1.98, 84_942_979_072
    ),
    "h200": Gpu(
        "NVIDIA H200", (9, 0), 132, 128, 232_448, 233_472, 4_800_000_000_000, 52_428_800, 1.98, 151_397_597_184
    ),
    "b200": Gpu(
        "NVIDIA B200", (10, 0), 148, 128, 232_448, 233_472, 7_672_320_000_000, 132_644_864, 1.965, 191_514_411_008
    ),
}

_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.block_memory}
  shared_memory_per_core: {gpu.core_memory}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{gpu.description}"
"""


PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


def require_compiler() -> None:
    """Raise unless the CUDA plugin of JAX and NVIDIA's assembler are there; put the assembler where XLA looks.

    Raises:
        ImportError: one of them is not; the message says how to install both.
    """
    if not any(map(is_installed, PLUGINS)):
        raise ImportError(
            "compiling for a GPU needs JAX's CUDA plugin, in JAX's own version, and NVIDIA's assembler: pip install "
            f'"jax-cuda12-plugin=={jax.__version__}" nvidia-cuda-nvcc-cu12, or "gradtx[rehearsal-cuda]"'
        )
    if shutil.which("ptxas") is None:
        packages = ("nvidia.cuda_nvcc", "nvidia.cu13") if is_installed("nvidia") else ()  # CUDA 12's place, and 13's
        specs = [importlib.util.find_spec(package) for package in packages]
        folders = [f for spec in specs if spec for f in (spec.submodule_search_locations or ()) if f]
        found = [pathlib.Path(f, "bin") for f in folders if pathlib.Path(f, "bin", "ptxas").exists()]
        if not found:
            raise ImportError(
                "compiling for a GPU needs NVIDIA's assembler, ptxas, and it is not on the PATH: pip install "
                'nvidia-cuda-nvcc-cu12, or "gradtx[rehearsal-cuda]"'
            )
        os.environ["PATH"] = os.pathsep.join([str(found[0]), os.environ.get("PATH", "")])


def devices(name: str, hosts: int, each: int) -> tuple[Any, ...]:
    """GPUs of a kind, so many in each of so many hosts.

    Raises:
        ImportError: the compiler is not installed.
    """
    require_compiler()
    return _devices(name, hosts, each)


@functools.lru_cache(maxsize=64)
def _devices(name: str, hosts: int, each: int) -> tuple[Any, ...]:
    from jax.experimental import topologies

    config = {"topology": f"1x{hosts}x{each}", "target_config": _TARGET.format(gpu=GPUS[name])}
    describe = functools.partial(topologies.get_topology_desc, platform="cuda", topology_name="", **config)
    with _only_to_compile():
        try:
            return tuple(describe().devices)
        except NotImplementedError:
            # JAX looked for GPUs before, and gave the plugin up for want of CUDA's libraries.
            importlib.import_module(next(filter(is_installed, PLUGINS))).initialize()
            return tuple(describe().devices)


@contextlib.contextmanager
def _only_to_compile() -> Iterator[None]:
    """Let the plugin start without CUDA's libraries, which programs need when they run."""
    name = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def is_installed(module: str) -> bool:
    """Whether there is a module of this name, which is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
