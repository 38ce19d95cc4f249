"""The way of a parameter's part: from where the parameter belongs to where its state lies, and back."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradtx._padding import Padding
from gradtx._placements import entries_of, names_in, split_spec
from gradtx._sharding import full_spec, is_explicit, words_of


class Route(NamedTuple):
    """Where a parameter belongs, and the stations on the way to where its state and its part of the work are.

    From one to the next it is split over one axis more. Scattered and gathered in such steps, each collective runs along one
    axis: compilers for TPUs know no reduce-scatter over several axes of a slice at once. What is padded is so behind the
    stations of axes that divide it.

    Attributes:
        shape: the parameter's.
        stations: its places, from where it belongs.
        padded: its shape with zeros at the end, if it is padded.
        later: the places of the padded parameter that follow.
    """

    shape: tuple[int, ...]
    stations: tuple[NamedSharding, ...]
    padded: tuple[int, ...]
    later: tuple[NamedSharding, ...]

    @property
    def home(self) -> NamedSharding:
        """Where it belongs."""
        return self.stations[0]

    @property
    def part(self) -> NamedSharding:
        """Where its part is."""
        return (*self.stations, *self.later)[-1]

    def like(self, leaf: Any) -> jax.ShapeDtypeStruct:
        """What the transformation inside sees in place of a leaf, as a shape."""
        return jax.ShapeDtypeStruct(self.padded, leaf.dtype, sharding=self.part)

    def scatter(self, x: Any) -> Any:
        """An array like the parameter that the devices may still have to sum, in parts."""
        x = put(x, *(self.stations[1:] or self.stations))
        return put(_resized(x, self.padded), *self.later) if self.later else x

    def split(self, x: Any) -> Any:
        """An array that lies like the parameter, in parts."""
        x = put(x, self.stations[-1])
        return put(_resized(x, self.padded), self.part) if self.later else x

    def gather(self, x: Any) -> Any:
        """Parts, put together where the parameter belongs."""
        if self.later:
            x = _resized(put(x, *reversed(self.later), self.stations[-1]), self.shape)
        return put(x, *reversed(self.stations))


def route(
    shape: tuple[int, ...],
    home: PartitionSpec,
    mesh: Any,
    axes: tuple[str, ...],
    min_size: int,
    padding: Padding | None,
) -> Route:
    """The way over the axes that the rule splits a parameter over, and over those for which it is padded."""
    steps = [split_spec(shape, home, mesh, axes[:n], min_size) for n in range(1, len(axes) + 1)]
    specs, later = list(dict.fromkeys([full_spec(home, len(shape)), *steps])), []
    if padding is not None:
        at = {a: d for d, entry in enumerate(specs[-1]) for a in names_in(entry)}
        if padding.axis in {at.get(a) for a in axes}:  # padded before any axis splits it
            specs = specs[:1]
        names = [names_in(entry) for entry in specs[-1]]
        for axis in axes:
            if mesh.shape[axis] > 1 and not any(axis in taken for taken in names):
                d = at.get(axis, padding.axis)
                names[d] = (*names[d], axis)
                later.append(entries_of(names))

    def on_mesh(entries: tuple[Any, ...]) -> NamedSharding:
        return NamedSharding(mesh, words_of(mesh, entries))

    padded = shape if padding is None else padding.shape(shape)
    return Route(shape, tuple(map(on_mesh, specs)), padded, tuple(map(on_mesh, later)))


def put(x: Any, *stations: NamedSharding) -> Any:
    """An array, concrete, abstract or traced, with another sharding; by way of others, if there are several."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=stations[-1])
    if not isinstance(x, jax.core.Tracer):
        return jax.device_put(x, stations[-1])
    for place in stations:
        if typed_spec(x) is not None:
            x = jax.sharding.reshard(x, PartitionSpec(*full_spec(place.spec, x.ndim)))
        else:
            x = jax.lax.with_sharding_constraint(x, place)
    return x


def typed_spec(x: Any) -> PartitionSpec | None:
    """The spec that an array's type holds, on meshes with explicit axes."""
    if not isinstance(x, jax.core.Tracer):
        return None
    sharding = getattr(jax.typeof(x), "sharding", None)
    if sharding is None or sharding.mesh.empty or not is_explicit(sharding.mesh):
        return None
    return sharding.spec


def _resized(x: Any, shape: tuple[int, ...]) -> Any:
    """An array with zeros at the end of a dimension, or without."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)
    if math.prod(shape) < x.size:
        return jax.lax.slice(x, [0] * x.ndim, shape)
    return jnp.pad(x, [(0, new - old) for old, new in zip(x.shape, shape, strict=True)])
