"""ZeRO-1: the state of an optimizer split over the devices that hold the same parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gradtx._core import trees
from gradtx._core.spec import fields_of
from gradtx._core.transform import Wrapper
from gradtx._padding import Leave, Padding, paddings_of
from gradtx._placements import MIN_SIZE, names_in, placements_of, split_spec
from gradtx._routes import Route, put, route, typed_spec
from gradtx._sharding import abstract_state, words_of
from gradtx._wrappers.offloading import OffloadState
from gradtx._wrappers.wrapping import inside


class ShardState(Wrapper):
    """A transformation whose state is split over mesh axes. Build it with `shard_state`."""

    mesh: Any = None
    axis: Any = "data"
    min_size: int = MIN_SIZE
    placements: Any = None
    pad: bool = False

    built_by: ClassVar[str] = "shard_state"
    transparent: ClassVar[bool] = True

    # ---- Optax's protocol ----

    def init(self, params: Any) -> Any:
        leaves, treedef = trees.flatten(params, "the parameter")
        routes = self._placed_at(params)._routes(leaves, params)
        shards = [way.split(leaf) for leaf, way in zip(leaves, routes, strict=True)]
        state = self.tx.init(jax.tree.unflatten(treedef, shards))
        return jax.tree.map(put, state, self._state_places(leaves, treedef, routes))

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("shard_state needs the parameters: call update(gradients, state, params); params was None")
        trees.fitting(updates, params)
        static = tuple((k, v) for k, v in sorted(extra.items()) if callable(v) or isinstance(v, str))
        arrays = {k: v for k, v in extra.items() if not (callable(v) or isinstance(v, str))}
        return _update(static, self._placed_at(params), updates, state, params, arrays)

    # ---- what `gradtx.step` does ----

    def _placed_at(self, params: Any) -> Self:
        if self.placements is not None:
            return self
        leaves = jax.tree.leaves(params)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self
        return self._with(placements=placements_of(params, self.mesh))

    def _step(
        self, apply: Callable[[Any, Any], Any], params: Any, state: Any, grads: Any, extra: dict[str, Any]
    ) -> tuple[Any, Any]:
        routes, shards, updates, state = self._split_update(grads, state, params, extra)
        new, treedef = jax.tree.flatten(apply(shards, updates))
        with jax.named_scope("gather_parameters"):
            whole = [way.gather(x) for x, way in zip(new, routes, strict=True)]
        return jax.tree.unflatten(treedef, whole), state

    def _split_update(
        self, updates: Any, state: Any, params: Any, extra: dict[str, Any]
    ) -> tuple[list[Route], Any, Any, Any]:
        """A step on parts: the ways of the parameters, their parts, the parts of the updates, the state."""
        gradients, leaves, treedef = trees.fitting(updates, params)  # before anything is padded
        assert leaves is not None
        routes = self._routes(leaves, params)
        with jax.named_scope("scatter_gradients"):
            split = [way.scatter(x) for x, way in zip(gradients, routes, strict=True)]
            part = [way.split(x) for x, way in zip(leaves, routes, strict=True)]
        gradients, part = jax.tree.unflatten(treedef, split), jax.tree.unflatten(treedef, part)
        new_updates, state = self.tx.update(gradients, state, part, **extra)
        state = jax.tree.map(put, state, self._state_places(leaves, treedef, routes))
        return routes, part, new_updates, state

    # ---- where everything is ----

    def _routes(self, leaves: list[Any], tree: Any) -> list[Route]:
        """For each parameter the way from where it belongs to where its state and its part of the work lie."""
        homes = self._homes(leaves, tree)
        paddings = self._paddings(leaves, homes, tree)[0] if self.pad else [None] * len(leaves)
        return [
            route(tuple(leaf.shape), home, self.mesh, self.axes, self.min_size, padding)
            for leaf, home, padding in zip(leaves, homes, paddings, strict=True)
        ]

    def _homes(self, leaves: list[Any], tree: Any) -> list[PartitionSpec]:
        given = self.placements
        if isinstance(given, tuple) and len(given) != len(leaves):
            raise ValueError(
                f"shard_state: it was built for a tree of {len(given)} parameters, and is given one of {len(leaves)}"
            )
        each = given if isinstance(given, tuple) else [given] * len(leaves)
        return [self._spec(leaf, spec, tree, i) for i, (leaf, spec) in enumerate(zip(leaves, each, strict=True))]

    def _paddings(
        self, leaves: list[Any], homes: list[PartitionSpec], tree: Any
    ) -> tuple[list[Padding | None], list[Leave]]:
        """What each leaf is padded with, and what keeps it from that."""
        shapes = jax.tree.unflatten(
            jax.tree.structure(tree), [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        )
        return paddings_of(self.tx, shapes, homes, self.mesh, self.axes, self.min_size)

    def _on_mesh(self, axes: tuple[Any, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, words_of(self.mesh, axes))

    def _spec(self, leaf: Any, given: PartitionSpec | None, tree: Any, index: int) -> PartitionSpec:
        typed = typed_spec(leaf)
        if typed is not None:
            return typed
        if given is not None:
            return given
        others = [n for n, size in self.mesh.shape.items() if size > 1 and n not in self.axes]
        if others:
            raise ValueError(
                f"leaf {trees.leaf_paths(tree)[index]}: inside jax.jit, on a mesh with automatic axes, nobody can see how a "
                f"parameter lies along {', '.join(map(repr, others))}: build it with shard_state(..., params=params), "
                "arrays or shapes with shardings"
            )
        return PartitionSpec()

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes that the state is split over."""
        return (self.axis,) if isinstance(self.axis, str) else tuple(self.axis)

    def _state_places(self, leaves: list[Any], treedef: Any, routes: list[Route]) -> Any:
        """The sharding of every array of the state: its part's, and the same rule for large ones that are whole."""
        shapes = [way.like(leaf) for leaf, way in zip(leaves, routes, strict=True)]
        state = abstract_state(self.tx, jax.tree.unflatten(treedef, shapes))

        def place(x: Any) -> NamedSharding:
            spec = getattr(x.sharding, "spec", PartitionSpec())  # none of a tree without parameters, which lie nowhere
            return self._on_mesh(split_spec(x.shape, spec, self.mesh, self.axes, self.min_size))

        return jax.tree.map(place, state)

    def table(self, params: Any) -> str:
        """How the parameters and their states lie, as text: a line a leaf, with what one device holds of the state.

        Args:
            params: a tree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
        """
        leaves, treedef = trees.flatten(params, "the parameter")
        this = self._placed_at(params)
        routes = this._routes(leaves, params)
        shards = [way.like(leaf) for leaf, way in zip(leaves, routes, strict=True)]
        shardings = this._state_places(leaves, treedef, routes)
        state = jax.tree.leaves(abstract_state(self.tx, jax.tree.unflatten(treedef, shards)))
        held = sum(
            math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x, sharding in zip(state, jax.tree.leaves(shardings), strict=True)
        )
        whole = sum(x.size * x.dtype.itemsize for x in state)
        paths = trees.leaf_paths(params)
        leave = (
            this._paddings(leaves, [way.home.spec for way in routes], params)[1] if self.pad else [None] * len(paths)
        )
        width = max(map(len, paths), default=0)
        lines = [f"state: {held:,} bytes a device of {whole:,} over {' x '.join(map(repr, self.axes))}"]
        for path, leaf, way, may in zip(paths, leaves, routes, leave, strict=True):
            padded = f" padded to {list(way.padded)}" if way.later else ""
            how = f"{way.home.spec}" if way.home.spec == way.part.spec else f"{way.home.spec} -> {way.part.spec}"
            how = ", ".join(filter(None, [how, self._why_whole(leaf, way, may)]))
            lines.append(f"    {path:{width}}  {leaf.dtype}{list(leaf.shape)}{padded}  {how}")
        return "\n".join(lines)

    def _why_whole(self, leaf: Any, way: Route, may: Leave | None) -> str:
        """Why a parameter's state is whole along some of the axes; empty where it is not."""
        split = {a for entry in way.part.spec for a in names_in(entry)}
        if all(a in split or self.mesh.shape[a] == 1 for a in self.axes):
            return ""
        if math.prod(leaf.shape) < self.min_size:
            return "not split: fewer than min_size elements"
        why = ["not split: no axis divides"] if way.home.spec == way.part.spec else []
        return ", ".join(why if may is None else [*why, f"not padded: {may.why}"])

    def _expression(self) -> str:
        own = [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields_of(self) if f.name not in ("transforms", "placements")
        ]
        return f"shard_state({', '.join([repr(self.tx), *own])})"

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.mesh, Mesh):
            raise TypeError(
                f"cannot pickle {self!r}: a mesh names the devices of one process; pickle what is inside, .tx"
            )
        return super().__reduce__()


@functools.partial(jax.jit, static_argnums=0)
def _update(
    static: tuple[tuple[str, Any], ...], tx: ShardState, updates: Any, state: Any, params: Any, extra: dict[str, Any]
) -> tuple[Any, Any]:
    with jax.named_scope("shard_state"):
        routes, _, new, state = tx._split_update(updates, state, params, {**dict(static), **extra})
        leaves, treedef = jax.tree.flatten(new)
        whole = [way.gather(x) for x, way in zip(leaves, routes, strict=True)]
        return jax.tree.unflatten(treedef, whole), state


def shard_state(
    tx: Any,
    mesh: Mesh | AbstractMesh,
    axis: str | tuple[str, ...] = "data",
    *,
    min_size: int = MIN_SIZE,
    params: Any = None,
    pad: bool = False,
) -> ShardState:
    r"""Split the state of `tx` over the devices that hold the same parameters (ZeRO-1).

    Each device keeps, and computes, its part of the state; the parameters stay as they are. One step is

        g = scatter(gradients);  p = scatter(parameters);  u = tx.update(g, state, p);  new = gather(p + u)

    where scattering a gradient that the devices still have to sum is one reduce-scatter (where the compiler makes it one:
    `rehearse` says), scattering parameters moves nothing, and `new` is gathered once. `gradtx.step` does just that, called from outside or within a jitted training
    step. `update` keeps Optax's contract instead, updates like the parameters: it gathers the updates, which costs a
    buffer of the parameters' size (and twice the traffic where parameters have 16 bits and updates 32).

    A parameter is split along the dimension that the mesh axis divides: a whole one before one that is split already, then
    that whose parts waste least of a TPU's tiles of 8 x 128, the longest, the first. Where there is none, or the
    parameter has fewer than `min_size` elements, its state stays whole, and its gradient is summed everywhere. The same
    holds for large arrays of the state that mirror no parameter. `.table(params)` shows what becomes of each.

    With `pad=True`, a parameter of at least `min_size` elements that some axes do not divide is padded with zeros at the end
    of one dimension, to the next multiple: rather of one that nothing splits yet than of one that another axis splits, then
    that whose parts waste least, the longest, the first. `tx` sees padded parameters and gradients (masks and functions of
    the state, like `slots`, padded shapes too), and the caller those that he has. A parameter stays whole where a stage that
    acts on it does not ignore zeros, as matrix optimizers and means over a leaf; and behind stochastic rounding, and other
    stages and storages that draw random bits, only its first dimension is padded, which leaves the bits of the rest as
    they were. `.table(params)` says all that. A padded state has other shapes on another mesh: `repad_state`.

    Put it outermost: around `accumulate_gradients`, clipping and groups, whose work and memory it then splits as well.
    The state has the structure that `tx.init` gives, so checkpoints of both restore into each other (padded ones with
    `repad_state`).

    Args:
        tx: a transformation, gradtx's or Optax's.
        mesh: the mesh the parameters live on.
        axis: the mesh axis, or several, over which the parameters are replicated. Over several, gradients are scattered and
            parameters gathered along one after the other, which TPUs need on larger slices: `data_mesh`.
        min_size: how many elements an array has to have at least to be split.
        params: the parameters, or their shapes or shardings as a tree, from which their placement is read. Needed only
            where `init` or `update` runs inside `jax.jit` on a mesh with automatic axes of which some split the
            parameters: there nobody can see how. Without it they count there as whole.

    Raises:
        ValueError: the mesh has no such axis, or a parameter is on another mesh.
        TypeError: `tx` is no transformation, or `mesh` no mesh; or `tx` is an `offload_state`, which goes around this.

    Source:
        Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 5.1; Xu et al., arXiv:2004.13336.
    """
    if isinstance(tx, OffloadState):
        raise TypeError("shard_state: offload_state belongs around it: offload_state(shard_state(tx, mesh))")
    if not isinstance(mesh, (Mesh, AbstractMesh)):
        raise TypeError(f"shard_state(mesh=...): expected a jax.sharding.Mesh, got {mesh!r}")
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    unknown = [a for a in axes if a not in mesh.shape]
    if unknown or not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"shard_state(axis=...): expected one or several of the mesh's axes {', '.join(map(repr, mesh.shape))}, got {axis!r}"
        )
    if not isinstance(min_size, int) or isinstance(min_size, bool) or min_size < 0:
        raise ValueError(f"shard_state(min_size=...): expected an integer >= 0, got {min_size!r}")
    if not isinstance(pad, bool):
        raise ValueError(f"shard_state(pad=...): expected True or False, got {pad!r}")
    placements = None if params is None else placements_of(params, mesh)
    axis = axes[0] if len(axes) == 1 else axes
    return ShardState((inside("shard_state", tx),), mesh, axis, min_size, placements, pad)
