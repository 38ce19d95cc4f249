"""State, declared: a slot has a name, a role and a dtype, and everything else follows from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx._core import dtypes


@dataclasses.dataclass(frozen=True)
class Slot:
    """One array of state that a stage keeps.

    Attributes:
        name: the field's name for it (`mu`, `nu`, ...).
        role: `"parameter"`: one array for every parameter, of its shape and sharding; `"factored"`: one for every
            parameter, of a shape that follows from the parameter's; `"scalar"`: one for the chain.
        dtype: the dtype it is stored in; None is the dtype of the arithmetic (float32, or float64 for float64).
        real: whether it is real also for complex parameters.
        shape: the shape of a `"scalar"` slot; of a `"factored"` one a function from the parameter's shape to the
            slot's, or to None for a parameter that has no such slot.
        initial: what a `"parameter"` slot starts as: zeros, or a copy of the parameter.
        axes: of a `"factored"` slot a function from the parameter's shape to the parameter's axis (or None) that each of
            the slot's axes is, and whose sharding it takes; without one the slot starts replicated.
        rate: of a running average the number of its stage that says which share this step's input has in it; on a zero
            input it shrinks by `1 - rate`.
        dtype_for: in place of `dtype` a function from the parameter's dtype to the slot's, or to None for a parameter that
            has no such slot. No codec keeps it.
    """

    name: str
    role: Literal["parameter", "factored", "scalar"] = "parameter"
    dtype: np.dtype | None = None
    real: bool = False
    shape: tuple[int, ...] | Callable[[tuple[int, ...]], tuple[int, ...] | None] = ()
    initial: Literal["zeros", "parameter"] = "zeros"
    axes: Callable[[tuple[int, ...]], tuple[int | None, ...]] | None = None
    rate: str | None = None
    dtype_for: Callable[[np.dtype], np.dtype | None] | None = None

    def shape_for(self, param_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of this slot's array for a parameter; None: it has none."""
        if self.role == "parameter":
            return tuple(param_shape)
        assert callable(self.shape)
        return self.shape(tuple(param_shape))


class State(NamedTuple):
    """The state of a chain.

    Attributes:
        count: int32 scalar, the number of updates made so far.
        stages: one entry a stage, in order: `{slot name: tree like the parameters, or an array}`, `()` for a stage
            that keeps nothing, or the state of a foreign Optax transformation.
    """

    count: jax.Array  # type: ignore[assignment]
    stages: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        """What a stage keeps under this name, as it is stored, if only one stage does: `state.mu`."""
        entries = self.stages if type(self.stages) is tuple and not name.startswith("_") else ()
        found = [entry[name] for entry in entries if isinstance(entry, dict) and name in entry]
        if len(found) == 1:
            return found[0]
        kept = sorted({key for entry in entries if isinstance(entry, dict) for key in entry})
        which = (
            f"{len(found)} stages keep one: see `stages`"
            if found
            else f"the stages keep {', '.join(kept) or 'nothing'}"
        )
        raise AttributeError(f"this State has no single {name!r}; {which}")


def slot_dtype(slot: Slot, param_dtype: np.dtype) -> np.dtype | None:
    """The dtype in which a slot mirrors a parameter; None: a parameter of this dtype has no such slot."""
    if slot.dtype_for is not None:
        return slot.dtype_for(param_dtype)
    compute = dtypes.compute_dtype(param_dtype)
    if slot.real:
        compute = dtypes.real_dtype(compute)
    if slot.dtype is None:
        return compute
    if jnp.issubdtype(slot.dtype, jnp.complexfloating) and not jnp.issubdtype(compute, jnp.complexfloating):
        raise TypeError(f"slot {slot.name!r} is real here; expected a real dtype for it, got {slot.dtype.name}")
    if jnp.issubdtype(compute, jnp.complexfloating) and not jnp.issubdtype(slot.dtype, jnp.complexfloating):
        raise TypeError(
            f"slot {slot.name!r} is complex here and cannot be stored as {slot.dtype.name} without "
            f"losing its imaginary part; expected a complex dtype, or None for {compute.name}"
        )
    return slot.dtype


def initial_array(slot: Slot, param: Any, dtype: np.dtype | None) -> Any:
    """What a slot holds for one parameter before the first step; None where it has no such slot."""
    if dtype is None:
        return None
    shape = slot.shape_for(jnp.shape(param))
    if shape is None:
        return None
    if slot.role == "factored" and shape != jnp.shape(param):
        if slot.axes is None:
            return scalar_like_parameters([param], shape, dtype)
        return _zeros_along(param, shape, slot.axes(jnp.shape(param)), dtype)
    if slot.initial == "parameter":
        return _copy(param, dtype)
    return zeros_like_parameter(param, dtype)


def _copy(param: Any, dtype: np.dtype) -> jax.Array:
    """A parameter in its own buffer, which donating one of the two leaves alone."""
    if isinstance(param, jax.ShapeDtypeStruct):
        return zeros_like_parameter(param, dtype)
    return jnp.copy(param) if param.dtype == dtype else jnp.asarray(param).astype(dtype)


def zeros_like_parameter(param: Any, dtype: np.dtype) -> jax.Array:
    """Zeros of a parameter's shape and sharding, in their own buffer."""
    if isinstance(param, jax.core.Tracer):
        if jax.device_count() > 1 and param.ndim and _on_automatic_mesh(param):
            # A constant has no sharding of its own, and the second step would compile again. One that seems to depend
            # on its parameter is given the parameter's sharding, and XLA drops the dependence later.
            source = param.real if jnp.iscomplexobj(param) and not jnp.issubdtype(dtype, jnp.complexfloating) else param
            never = jnp.zeros(param.shape, bool)
            return jnp.where(never, source.astype(dtype), jnp.zeros((), dtype))
        return jnp.zeros_like(param, dtype=dtype)
    sharding = getattr(param, "sharding", None)
    if isinstance(param, jax.Array) and not param.committed:
        sharding = None
    return jnp.zeros(jnp.shape(param), dtype, device=sharding)


def _zeros_along(param: Any, shape: tuple[int, ...], axes: tuple[int | None, ...], dtype: np.dtype) -> jax.Array:
    """Zeros whose axes are sharded as the axes of the parameter that they are; `None` is an axis of its own."""
    if isinstance(param, jax.core.Tracer):
        # As in `zeros_like_parameter`, by way of an array that has these axes: the others are summed up.
        others = [a for a in range(param.ndim) if a not in axes]
        source = jnp.expand_dims(jnp.sum(param, others), [i for i, a in enumerate(axes) if a is None])
        like = jnp.broadcast_to(source, shape)
        return zeros_like_parameter(like, dtype)
    sharding = getattr(param, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding) or (isinstance(param, jax.Array) and not param.committed):
        return scalar_like_parameters([param], shape, dtype)
    spec = tuple(sharding.spec) + (None,) * (len(jnp.shape(param)) - len(sharding.spec))
    return jnp.zeros(shape, dtype, device=_on_mesh(sharding.mesh, [None if a is None else spec[a] for a in axes]))


def _on_mesh(mesh: Any, axes: list[Any]) -> jax.sharding.NamedSharding:
    """A sharding in the words in which a compiled step returns it, whose second call would else compile again."""
    explicit = any("Explicit" in str(kind) for kind in mesh.axis_types)
    while not explicit and axes and axes[-1] is None:
        axes = axes[:-1]
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def _on_automatic_mesh(tracer: Any) -> bool:
    sharding = getattr(jax.typeof(tracer), "sharding", None)
    spec = getattr(sharding, "spec", None)
    return spec is None or all(axis is None for axis in spec)


def scalar_like_parameters(params: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """Zeros kept once for the chain, replicated over the mesh that the parameters live on."""
    for param in params:
        sharding = getattr(param, "sharding", None)
        if isinstance(param, jax.Array) and not isinstance(param, jax.core.Tracer) and not param.committed:
            continue
        if (
            isinstance(sharding, jax.sharding.NamedSharding)
            and sharding.mesh.size > 1
            and not isinstance(param, jax.core.Tracer)
        ):
            replicated = _on_mesh(sharding.mesh, [None for _ in shape])
            return jax.device_put(np.zeros(shape, dtype), replicated)
    return jnp.zeros(shape, dtype)


def slot_storage(dtype: Any, owner: Any, field: str) -> np.dtype | None:
    """A storage dtype as the user gives it (`None`, `"bfloat16"`, `jnp.bfloat16`), canonical."""
    if dtype is None:
        return None
    where = f"{type(owner).__name__}({field}=...)"
    try:
        canonical = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    except TypeError as error:
        raise TypeError(f"{where}: expected a dtype, got {dtype!r}") from error
    if not jnp.issubdtype(canonical, jnp.inexact):
        raise TypeError(f"{where}: expected a floating or complex dtype, got {canonical.name}, which would truncate")
    return canonical
