"""`rehearse`: a step compiled for a TPU slice, or for GPUs, that need not exist."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from gradtx._cli import building
from gradtx._rehearsal.targets import devices_of


def add(subparsers: Any) -> None:
    """Add the subcommand."""
    rehearse = subparsers.add_parser(
        "rehearse",
        help="memory and traffic of a training step on a TPU slice or GPUs that need not be there",
        description="Compile a step for a TPU slice, or GPUs, that need not be there; print what one device holds, needs and sends.",
        epilog="Of your own: rehearse train.py:build --topology v5p:4x4x4 --mesh data=16,model=4, where build(mesh) returns "
        "the (jitted) step and its arguments, as shapes with shardings over the mesh. Of an optimizer alone: "
        "rehearse adamw --learning-rate 1e-3 --topology v5e:2x4 --shapes 4096x11008*32,4096*65 --shard-state data",
    )
    rehearse.add_argument("what", help="FILE:FUNCTION, or an optimizer's name followed by its arguments")
    rehearse.add_argument(
        "--topology", required=True, help="v5e:2x4, v5p:4x4x4, v6e:16x16, h100:8, h200:4x8 (hosts x GPUs), ..."
    )
    rehearse.add_argument("--mesh", help="axes and sizes, data=16,model=4; one axis 'data' by default")
    rehearse.add_argument("--shapes", help="of an optimizer's parameters, replicated: 4096x11008*32,4096")
    rehearse.add_argument("--dtype", default="float32", help="of the parameters and gradients")
    rehearse.add_argument("--shard-state", metavar="AXIS", help="split the optimizer's state over this axis")
    rehearse.add_argument("--pad", action="store_true", help="with --shard-state: pad what the axis does not divide")
    rehearse.set_defaults(run=_rehearse)


def _rehearse(given: argparse.Namespace, rest: list[str]) -> int:
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # what is here is left alone
    sizes = _sizes(given.mesh) if given.mesh else {"data": len(devices_of(given.topology))}
    mesh = gradtx.topology_mesh(given.topology, sizes)
    own = ".py:" in given.what
    step, arguments = _of_file(given, mesh) if own else _of_optimizer(given, rest, mesh)
    if own and rest:
        raise ValueError(f"expected no further arguments, got {' '.join(rest)}")
    report = gradtx.rehearse(step, *arguments, topology=given.topology)
    print(report)
    return 0 if report.fits else 1


def _sizes(text: str) -> dict[str, int]:
    pairs = [re.fullmatch(r"(\w+)=(\d+)", part) for part in text.split(",")]
    if not all(pairs):
        raise ValueError(f"--mesh: expected axes and sizes such as data=16,model=4, got {text!r}")
    return {pair[1]: int(pair[2]) for pair in pairs if pair}


def _of_file(given: argparse.Namespace, mesh: Any) -> tuple[Any, Any]:
    path, _, name = given.what.rpartition(":")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"no file {path!r}")
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{path} has no function {name!r}")
    built = getattr(module, name)(mesh)
    if not (isinstance(built, tuple) and len(built) == 2 and isinstance(built[1], (tuple, list))):
        raise TypeError(f"{given.what}(mesh): expected a step and the tuple of its arguments, got {built!r}")
    return built


def _of_optimizer(given: argparse.Namespace, rest: list[str], mesh: Any) -> tuple[Any, Any]:
    if not given.shapes:
        raise ValueError("of an optimizer alone, say of which parameters: --shapes 4096x11008*32,4096")
    tx = building.build([given.what, *rest])
    where = NamedSharding(mesh, PartitionSpec())
    params: dict[str, jax.ShapeDtypeStruct] = {}
    for part in given.shapes.split(","):
        match = re.fullmatch(r"(\d+(?:x\d+)*)(?:\*(\d+))?", part)
        if match is None:
            raise ValueError(f"--shapes: expected shapes such as 4096x11008*32,4096, got {part!r}")
        shape = tuple(map(int, match[1].split("x")))
        for _ in range(int(match[2] or 1)):
            params[f"{len(params)}"] = jax.ShapeDtypeStruct(shape, jnp.dtype(given.dtype), sharding=where)
    if given.shard_state:
        tx = gradtx.shard_state(tx, mesh, given.shard_state, params=params, pad=given.pad)
    step = jax.jit(
        lambda parameters, state, gradients: gradtx.step(tx, parameters, state, gradients), donate_argnums=(0, 1)
    )
    print(f"{tx}\n{sum(math.prod(p.shape) for p in params.values()):,} parameters in {len(params)} arrays\n")
    return step, (params, gradtx.abstract_state(tx, params), params)
