"""What stages declare of appended zeros: where one says that it ignores them, they change nothing else."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import BY_NAME, ZOO, Row

import gradtx
from gradtx._padding import leaves_to_pad, padding_of
from gradtx._placements import names_in
from gradtx._routes import route

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = {"rows": (8, 8), "columns": (8, 8), "vector": (64,)}
LONGER = {"rows": (16, 8), "columns": (8, 16), "vector": (128,)}
FIRST = {**LONGER, "columns": (16, 8)}  # where random bits follow from an element's place
STEPS = 3


def tree(shapes: Any, seed: int, dtype: Any) -> Any:
    """Numbers of `SHAPES`, with zeros behind them."""
    rng = np.random.default_rng(seed)
    numbers = {name: rng.normal(size=SHAPES[name]) for name in shapes}
    return {
        name: jnp.asarray(np.pad(x, [(0, b - a) for a, b in zip(x.shape, shapes[name])]), dtype)
        for name, x in numbers.items()
    }


def trained(tx: Any, shapes: Any, dtype: Any, keywords: Any = None) -> tuple[Any, Any]:
    """The updates of each step and the last state, of parameters that walk.

    Operation by operation: a program of other shapes may fuse other products and sums, which round once for both.
    """
    params, out = tree(shapes, 0, dtype), []
    with jax.disable_jit():
        state = tx.init(params)
        for i in range(STEPS):
            gradients = tree(shapes, i + 1, dtype)
            updates, state = tx.update(gradients, state, params, **(keywords or {}))
            params = jax.tree.map(lambda p, g: p - (0.1 * g).astype(p.dtype), params, gradients)
            out.append(updates)
    return jax.tree.map(lambda *x: jnp.stack(x), *out), state


def differences(long: Any, short: Any) -> list[str]:
    """Where the longer run is not, bit for bit, the shorter one with something behind it."""
    assert jax.tree.structure(long) == jax.tree.structure(short)
    found = []
    flat = jax.tree_util.tree_flatten_with_path(long)[0]
    for (path, a), b in zip(flat, jax.tree.leaves(short), strict=True):
        fits = a.ndim == b.ndim and all(m >= n for m, n in zip(a.shape, b.shape, strict=True))
        mine = np.asarray(a)[tuple(slice(n) for n in b.shape)] if fits else a
        if not fits or mine.tobytes() != np.asarray(b).tobytes():
            found.append(f"{jax.tree_util.keystr(path)}: {mine} and {b}")
    return found


def zero_behind(updates: Any) -> bool:
    """Whether the updates of zeros are zeros: without those of the numbers nothing is left."""
    sizes = {name: tuple(slice(n) for n in SHAPES[name]) for name in updates}
    return not any(np.asarray(x.at[(slice(None), *sizes[name])].set(0)).any() for name, x in updates.items())


def allowed(tx: Any, dtype: Any) -> Any:
    """The longer shapes that the stages allow; where they allow none, the shapes as they are."""
    leave = leaves_to_pad(tx, {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()})
    paths = sorted(SHAPES)  # as the tree's leaves are
    longer = {}
    for name, may in zip(paths, leave, strict=True):
        longer[name] = SHAPES[name] if may.refused else FIRST[name] if may.drawn else LONGER[name]
    return longer


@pytest.mark.parametrize(
    "names", [("rows", "columns"), pytest.param(("vector",), marks=pytest.mark.slow)], ids="-".join
)
@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_zeros_are_ignored(row: Row, names: tuple[str, ...]):
    tx = row.build()
    longer = allowed(tx, row.dtype)
    assert (longer == SHAPES) == (row.name in REFUSED)
    longer, shapes = ({name: shapes[name] for name in names} for shapes in (longer, SHAPES))
    if longer == shapes:
        return
    (updates, state), short = (trained(tx, s, row.dtype, row.keywords) for s in (longer, shapes))
    assert not differences((updates, state), short)
    assert zero_behind(updates)


# Of all others at least one leaf may be padded: what a new row does not declare shows here.
REFUSED = {
    *("adafactor", "scale_by_factored_rms", "sm3", "scale_by_sm3", "kron", "scale_by_kron", "soap", "to_eigenbasis"),
    *("add_noise", "noisy_sgd", "capture_gradient", "cautious", "cautious_adamw", "centralize", "novograd"),
    *("clip_by_block_rms", "scale_by_param_block_rms", "stable_adamw", "probed"),
}


@pytest.mark.parametrize("name", sorted(REFUSED - {"probed", "kron", "soap", "to_eigenbasis", "scale_by_kron"}))
def test_what_does_not_say_so_does_not(name):
    """Padded all the same, the rest of the update or of the state is another, or zeros do not stay zero."""
    row = BY_NAME[name]
    (updates, state), short = (trained(row.build(), s, row.dtype, row.keywords) for s in (LONGER, SHAPES))
    assert differences((updates, state), short) or not zero_behind(updates)


CODECS = {
    "half": lambda: gradtx.with_storage(gradtx.adamw(1e-2), "half", min_size=1),
    "quarter": lambda: gradtx.with_storage(gradtx.adamw(1e-2), "quarter", min_size=1),
    "log16": lambda: gradtx.with_storage(gradtx.sgd(1e-2, momentum=0.9), trace="log16", min_size=1),
    "bfloat16": lambda: gradtx.with_storage(gradtx.lion(1e-2), "bfloat16", min_size=1),
    "float16": lambda: gradtx.with_storage(gradtx.rmsprop(1e-2), "float16", min_size=1),
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs_ignore_zeros_along_the_first_dimension(name):
    tx = CODECS[name]()
    assert allowed(tx, jnp.float32) == FIRST
    (updates, state), short = (trained(tx, s, jnp.float32) for s in (FIRST, SHAPES))
    assert not differences((updates, state), short)
    assert zero_behind(updates)
    assert differences(trained(tx, LONGER, jnp.float32), short)  # other bits behind a longer row


def test_a_factored_storage_does_not():
    tx = gradtx.with_storage(gradtx.adamw(1e-2), nu=gradtx.storage.factored(min_size=1, min_dim_size=4))
    leave = dict(zip(sorted(SHAPES), leaves_to_pad(tx, tree(SHAPES, 0, jnp.float32)), strict=True))
    assert leave["rows"].refused == leave["columns"].refused == "factored does not ignore zeros"
    assert not leave["vector"].refused


class unspoken(gradtx.Leafwise):
    """A stage whose author has not thought of zeros."""


def test_only_what_acts_on_a_leaf_is_asked():
    """In groups, behind masks, in wrappers and in chains of them; functions of all parameters forbid all."""
    vector = {"vector": gradtx.adafactor(1e-2), "**": gradtx.accumulate_gradients(gradtx.lion(1e-2), 2)}
    assert allowed(gradtx.by_path(vector), jnp.float32) == {**LONGER, "vector": SHAPES["vector"]}
    masked = gradtx.chain(optax.masked(optax.adam(1e-2), {"rows": True, "columns": False, "vector": False}))
    assert allowed(masked, jnp.float32) == SHAPES  # nobody can see into Optax's
    chained = gradtx.chain(gradtx.accumulate_gradients(gradtx.sgd(1e-2), 2), gradtx.stochastic_rounding())
    assert allowed(chained, jnp.bfloat16) == FIRST
    assert allowed(unspoken(), jnp.float32) == SHAPES
    curved = gradtx.by_path({"rows": gradtx.estimate_hessian_diagonal(), "**": gradtx.sgd(1e-2)})
    assert allowed(curved, jnp.float32) == SHAPES
    assert allowed(gradtx.sam(gradtx.sgd(1e-2), gradtx.sgd(1e-2), opaque_mode=True), jnp.float32) == SHAPES


MESH = jax.sharding.AbstractMesh((3, 8, 2), ("host", "chip", "model"))


@pytest.mark.parametrize(
    ("shape", "spec", "axes", "first", "expected"),
    [
        ((4096, 11008), (), ("host", "chip"), False, (4096, 11010)),  # 8 takes the first, and 3 is left
        ((4096, 11008), (None, "model"), ("host", "chip"), False, (4104, 11008)),  # 3 finds nothing else
        ((4100, 4100), (), ("chip",), False, (4104, 4100)),  # 513 x 4100 fills fewer tiles than 4100 x 513
        ((10007, 9973), (), ("chip",), False, (10008, 9973)),
        ((1, 50001), (), ("chip",), False, (1, 50008)),  # longer than 1
        ((3, 50001), (), ("chip",), True, (8, 50001)),
        ((3, 50001), (), ("chip",), False, (3, 50008)),
        ((1, 50001), (), ("chip",), True, None),
        ((4098,), (), ("host", "chip"), False, (4104,)),  # split over 3 already: padded before
        ((4100, 4100), ("model", None), ("chip",), False, (4100, 4104)),  # not what is split where it belongs
        ((4100, 4100), ("model", None), ("chip",), True, None),
        ((4096, 4096), (), ("chip",), False, None),  # nothing is left over
        ((9, 7), (), ("chip",), False, None),  # smaller than min_size
        ((), (), ("chip",), False, None),
    ],
)
def test_which_dimension_is_padded(shape, spec, axes, first, expected):
    spec = jax.sharding.PartitionSpec(*spec)
    padding = padding_of(shape, spec, MESH, axes, 100, first=first)
    assert (padding and padding.shape(shape)) == expected
    way = route(shape, spec, MESH, axes, 100, padding)
    assert way.padded == (expected or shape)
    assert len(way.stations) + len(way.later) <= 1 + len(axes)
    for place, long in [*((s, shape) for s in way.stations), *((s, way.padded) for s in way.later)]:
        parts = math.prod(MESH.shape[a] for entry in place.spec for a in names_in(entry))
        assert math.prod(place.shard_shape(long)) * parts == math.prod(long)
    if expected:
        assert {a for entry in way.part.spec for a in names_in(entry)} >= set(axes)
