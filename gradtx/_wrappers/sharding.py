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
from gradtx._placements import MIN_SIZE, placements_of, split_spec
from gradtx._sharding import abstract_state, full_spec, is_explicit, words_of
from gradtx._wrappers.offloading import OffloadState
from gradtx._wrappers.wrapping import inside

Stations = tuple[NamedSharding, ...]  # an array's places on the way from where it belongs to where its parts are


class ShardState(Wrapper):
    """A transformation whose state is split over mesh axes. Build it with `shard_state`."""

    mesh: Any = None
    axis: Any = "data"
    min_size: int = MIN_SIZE
    placements: Any = None

    built_by: ClassVar[str] = "shard_state"
    transparent: ClassVar[bool] = True

    # ---- Optax's protocol ----

    def init(self, params: Any) -> Any:
        leaves, treedef = trees.flatten(params, "the parameter")
        places = self._placed_at(params)._places(leaves, params)
        shards = [_put(leaf, stations[-1]) for leaf, stations in zip(leaves, places, strict=True)]
        state = self.tx.init(jax.tree.unflatten(treedef, shards))
        return jax.tree.map(_put, state, self._state_places(leaves, treedef, places))

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
        places, shards, updates, state = self._split_update(grads, state, params, extra)
        new, treedef = jax.tree.flatten(apply(shards, updates))
        with jax.named_scope("gather_parameters"):
            whole = [_put(x, *reversed(stations)) for x, stations in zip(new, places, strict=True)]
        return jax.tree.unflatten(treedef, whole), state

    def _split_update(
        self, updates: Any, state: Any, params: Any, extra: dict[str, Any]
    ) -> tuple[list[Stations], Any, Any, Any]:
        """A step on parts: where the parameters belong, their parts, the parts of the updates, the state."""
        leaves, treedef = trees.flatten(params, "the parameter")
        places = self._places(leaves, params)
        gradients = trees.flatten_like(treedef, params, updates, "the gradients", "the parameters")
        with jax.named_scope("scatter_gradients"):
            split = [_put(x, *(stations[1:] or stations)) for x, stations in zip(gradients, places, strict=True)]
            part = [_put(x, stations[-1]) for x, stations in zip(leaves, places, strict=True)]
        gradients, part = jax.tree.unflatten(treedef, split), jax.tree.unflatten(treedef, part)
        new_updates, state = self.tx.update(gradients, state, part, **extra)
        state = jax.tree.map(_put, state, self._state_places(leaves, treedef, places))
        return places, part, new_updates, state

    # ---- where everything is ----

    def _places(self, leaves: list[Any], tree: Any) -> list[Stations]:
        """For each parameter where it belongs, ..., and where its state and its part of the work do.

        Between the two it is split over some of the axes, one more at each station. Scattered and gathered in such steps, each
        collective runs along one axis: compilers for TPUs know no reduce-scatter over several axes of a slice at once.
        """
        given = self.placements
        if isinstance(given, tuple) and len(given) != len(leaves):
            raise ValueError(
                f"shard_state: it was built for a tree of {len(given)} parameters, and is given one of {len(leaves)}"
            )
        places = []
        for i, leaf in enumerate(leaves):
            spec = self._spec(leaf, given[i] if isinstance(given, tuple) else given, tree, i)
            specs = [full_spec(spec, len(leaf.shape))]
            for n in range(1, len(self.axes) + 1):
                specs.append(split_spec(leaf.shape, spec, self.mesh, self.axes[:n], self.min_size))
            places.append(tuple(self._on_mesh(axes) for axes in dict.fromkeys(specs)))
        return places

    def _on_mesh(self, axes: tuple[Any, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, words_of(self.mesh, axes))

    def _spec(self, leaf: Any, given: PartitionSpec | None, tree: Any, index: int) -> PartitionSpec:
        typed = _typed_spec(leaf)
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

    def _state_places(self, leaves: list[Any], treedef: Any, places: list[Stations]) -> Any:
        """The sharding of every array of the state: its part's, and the same rule for large ones that are whole."""
        shapes = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=stations[-1])
            for leaf, stations in zip(leaves, places, strict=True)
        ]
        state = abstract_state(self.tx, jax.tree.unflatten(treedef, shapes))

        def place(x: Any) -> NamedSharding:
            return self._on_mesh(split_spec(x.shape, x.sharding.spec, self.mesh, self.axes, self.min_size))

        return jax.tree.map(place, state)

    def table(self, params: Any) -> str:
        """How the parameters and their states lie, as text: a line a leaf, with what one device holds of the state.

        Args:
            params: a tree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
        """
        leaves, treedef = trees.flatten(params, "the parameter")
        this = self._placed_at(params)
        places = this._places(leaves, params)
        shards = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=stations[-1])
            for leaf, stations in zip(leaves, places, strict=True)
        ]
        shardings = this._state_places(leaves, treedef, places)
        state = jax.tree.leaves(abstract_state(self.tx, jax.tree.unflatten(treedef, shards)))
        held = sum(
            math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x, sharding in zip(state, jax.tree.leaves(shardings), strict=True)
        )
        whole = sum(x.size * x.dtype.itemsize for x in state)
        paths = trees.leaf_paths(params)
        width = max(map(len, paths), default=0)
        lines = [f"state: {held:,} bytes a device of {whole:,} over {' x '.join(map(repr, self.axes))}"]
        for path, leaf, stations in zip(paths, leaves, places, strict=True):
            home, shard = stations[0], stations[-1]
            how = f"{home.spec} -> {shard.spec}" if home.spec != shard.spec else f"{home.spec}, {self._why_whole(leaf)}"
            lines.append(f"    {path:{width}}  {leaf.dtype}{list(leaf.shape)}  {how}")
        return "\n".join(lines)

    def _why_whole(self, leaf: Any) -> str:
        size = math.prod(leaf.shape)
        return f"not split: {'fewer than min_size elements' if size < self.min_size else 'no axis divides'}"

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
        places, _, new, state = tx._split_update(updates, state, params, {**dict(static), **extra})
        leaves, treedef = jax.tree.flatten(new)
        whole = [_put(x, *reversed(stations)) for x, stations in zip(leaves, places, strict=True)]
        return jax.tree.unflatten(treedef, whole), state


def _put(x: Any, *stations: NamedSharding) -> Any:
    """An array, concrete, abstract or traced, with another sharding; by way of others, if there are several."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=stations[-1])
    if not isinstance(x, jax.core.Tracer):
        return jax.device_put(x, stations[-1])
    for place in stations:
        if _typed_spec(x) is not None:
            x = jax.sharding.reshard(x, PartitionSpec(*full_spec(place.spec, x.ndim)))
        else:
            x = jax.lax.with_sharding_constraint(x, place)
    return x


def _typed_spec(x: Any) -> PartitionSpec | None:
    """The spec that an array's type holds, on meshes with explicit axes."""
    if not isinstance(x, jax.core.Tracer):
        return None
    sharding = getattr(jax.typeof(x), "sharding", None)
    if sharding is None or sharding.mesh.empty or not is_explicit(sharding.mesh):
        return None
    return sharding.spec


def shard_state(
    tx: Any,
    mesh: Mesh | AbstractMesh,
    axis: str | tuple[str, ...] = "data",
    *,
    min_size: int = MIN_SIZE,
    params: Any = None,
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

    Put it outermost: around `accumulate_gradients`, clipping and groups, whose work and memory it then splits as well.
    The state has the structure that `tx.init` gives, so checkpoints of both restore into each other.

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
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    unknown = [a for a in axes if a not in mesh.shape]
    if unknown or not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"shard_state(axis=...): expected one or several of the mesh's axes {', '.join(map(repr, mesh.shape))}, got {axis!r}"
        )
    if not isinstance(min_size, int) or isinstance(min_size, bool) or min_size < 0:
        raise ValueError(f"shard_state(min_size=...): expected an integer >= 0, got {min_size!r}")
    placements = None if params is None else placements_of(params, mesh)
    return ShardState((inside("shard_state", tx),), mesh, axes[0] if len(axes) == 1 else axes, min_size, placements)
