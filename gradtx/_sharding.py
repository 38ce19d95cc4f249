"""Where a state lives: the shardings that `init` gives every slot, found without allocating or compiling anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gradtx._core import trees


def state_shardings(tx: Any, params: Any) -> Any:
    """The sharding of every array in the state that `tx.init(params)` would make.

    For `jax.jit(tx.init, out_shardings=...)`, for restoring a checkpoint, for a plan on paper: nothing is allocated or
    compiled, so `params` may be larger than any machine at hand, and on a mesh of devices that are not there.

    A slot that mirrors its parameter has the parameter's sharding, a factored one that of the axes it shares with it,
    and what is kept once is replicated. The answer is read off `init` itself, traced over a mesh whose axes are part of
    every array's type; so it holds for every stage, wrapper and storage, and for Optax's transformations.

    Args:
        tx: a transformation, gradtx's or Optax's.
        params: a tree of arrays, or of `jax.ShapeDtypeStruct`s with a `sharding`. A leaf without one, or one that was not
            put anywhere on purpose, counts as replicated over the mesh of the others.

    Returns:
        A tree like `tx.init(params)` of `NamedSharding`s; of `SingleDeviceSharding`s where no parameter has a mesh.

    Raises:
        ValueError: the parameters live on different meshes, or on several devices without a mesh.
        TypeError: a parameter's sharding is of another kind, or unknown: inside `jax.jit` on a mesh with automatic axes.
    """
    return jax.tree.map(lambda x: x.sharding, abstract_state(tx, params))


def abstract_state(tx: Any, params: Any) -> Any:
    """The state that `tx.init(params)` would make, as `jax.ShapeDtypeStruct`s with shardings.

    What a checkpoint is restored into and a program compiled for. It says of every array what `state_shardings` says of its
    place, and its shape and dtype; `jax.eval_shape(tx.init, params)` knows no shardings on meshes with automatic axes.

    Args:
        tx: a transformation, gradtx's or Optax's.
        params: as in `state_shardings`.

    Raises:
        ValueError, TypeError: as `state_shardings`.
    """
    leaves, treedef = trees.flatten(params, "the parameter")
    places = [_placement(leaf, params, i) for i, leaf in enumerate(leaves)]
    home = _common(places, params)
    if not isinstance(home, (Mesh, AbstractMesh)):
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        return _on_one_device(_traced(tx, jax.tree.unflatten(treedef, shapes)), home)
    typed = AbstractMesh(home.axis_sizes, home.axis_names, axis_types=(AxisType.Explicit,) * len(home.axis_names))
    shapes = [
        jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(typed, place.spec if place else PartitionSpec())
        )
        for leaf, place in zip(leaves, places, strict=True)
    ]
    with jax.sharding.use_abstract_mesh(typed):
        state = _traced(tx, jax.tree.unflatten(treedef, shapes))
    return _placed(state, lambda x: _on(home, x))


def is_explicit(mesh: Any) -> bool:
    """Whether shardings over this mesh are part of the arrays' types."""
    return all(kind == AxisType.Explicit for kind in mesh.axis_types)


def full_spec(spec: PartitionSpec, ndim: int) -> tuple[Any, ...]:
    """The entries of a spec, one an axis."""
    return tuple(spec) + (None,) * (ndim - len(tuple(spec)))


def words_of(mesh: Any, axes: tuple[Any, ...]) -> PartitionSpec:
    """A spec in the words in which a compiled step returns it, whose second call would else compile again."""
    while not is_explicit(mesh) and axes and axes[-1] is None:
        axes = axes[:-1]
    return PartitionSpec(*axes)


def in_host_memory(sharding: Any) -> bool:
    """Whether arrays with this sharding lie in the memory of the host."""
    return getattr(sharding, "memory_kind", None) == "pinned_host"


def to_host_memory(sharding: Any) -> Any:
    """The same place in the memory of the host.

    Devices that are described only, as a GPU to compile for, may know no memories; then it is over their abstract mesh.
    """
    there = sharding.with_memory_kind("pinned_host")
    if in_host_memory(there) or not isinstance(sharding, NamedSharding):
        return there
    return NamedSharding(sharding.mesh.abstract_mesh, sharding.spec, memory_kind="pinned_host")


def in_memory(x: Any, space: Any) -> Any:
    """An array, concrete, abstract or traced, in the memory of the device or of its host, and where it was in it.

    Args:
        x: the array.
        space: `jax.memory.Space.Device` or `.Host`.
    """
    if isinstance(x, jax.core.Tracer):
        return x if jax.typeof(x).memory_space == space else jax.device_put(x, space)
    away = space == jax.memory.Space.Host
    if in_host_memory(x.sharding) == away:
        return x
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jax.device_put(x, space)
    if x.sharding is None:
        return x
    place = to_host_memory(x.sharding) if away else x.sharding.with_memory_kind("device")
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _traced(tx: Any, shapes: Any) -> Any:
    """The state as the types of its arrays, `jax.core.ShapedArray`s, which know the memory they lie in."""
    jaxpr, state = jax.make_jaxpr(tx.init, return_shape=True)(shapes)
    return jax.tree.unflatten(jax.tree.structure(state), jaxpr.out_avals)


def _placed(state: Any, place: Callable[[Any], Any]) -> Any:
    """Types of arrays as shapes with shardings."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        sharding = place(x)
        if x.memory_space == jax.memory.Space.Host:
            sharding = to_host_memory(sharding)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, state)


def _on(mesh: Any, x: Any) -> NamedSharding:
    spec = PartitionSpec() if x.sharding.mesh.empty else x.sharding.spec
    return NamedSharding(mesh, words_of(mesh, full_spec(spec, x.ndim)))


def _placement(leaf: Any, tree: Any, index: int) -> Any:
    """The `NamedSharding` or `SingleDeviceSharding` of a parameter; None where it has none of its own."""

    def where() -> str:
        return f"leaf {trees.leaf_paths(tree)[index]}"

    if isinstance(leaf, jax.core.Tracer):
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        if sharding is None or sharding.mesh.empty or not is_explicit(sharding.mesh):
            raise TypeError(
                f"{where()}: expected a parameter whose sharding is known, got a traced one; inside jax.jit it is known "
                "only on meshes with explicit axes: call this outside"
            )
        return sharding
    if isinstance(leaf, jax.Array) and not leaf.committed:
        return None
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and not isinstance(sharding, (NamedSharding, SingleDeviceSharding)):
        raise TypeError(f"{where()}: expected a NamedSharding or SingleDeviceSharding, got {sharding!r}")
    return sharding


def _common(places: list[Any], tree: Any) -> Any:
    """The mesh that parameters live on, or their one device, or None."""
    first, home = 0, None
    for i, place in enumerate(places):
        if place is None:
            continue
        this = place.mesh if isinstance(place, NamedSharding) else place
        if home is None:
            first, home = i, this
        elif home != this:
            paths = trees.leaf_paths(tree)
            raise ValueError(
                f"expected all parameters on one mesh or device: leaf {paths[first]} is on {home}, leaf {paths[i]} on {this}"
            )
    return home


def _on_one_device(state: Any, device: SingleDeviceSharding | None) -> Any:
    sharding = SingleDeviceSharding(jax.devices()[0]) if device is None else device
    return _placed(state, lambda x: sharding)
