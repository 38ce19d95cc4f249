"""Random bits for rounding: uniform, uncorrelated, and the same on every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gradtx._core import random_bits

SOURCES = pytest.mark.parametrize("draw", [random_bits.murmur, random_bits.weyl])


def fractions(*args, **kwargs):
    return np.asarray(random_bits.murmur(*args, **kwargs)) / 2**32


def fmix32(h):
    """The published finalizer, in Python's integers."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


@SOURCES
def test_the_mean_of_100000_draws(draw):
    over_elements = np.asarray(draw(0, 7, 3, (100_000,))) / 2**32
    steps = jnp.arange(100_000, dtype=jnp.int32)
    over_steps = np.asarray(jax.jit(jax.vmap(lambda t: draw(0, t, 3, ())))(steps)) / 2**32
    for u in (over_elements, over_steps):
        assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 100_000)
        counts = np.histogram(u, 64, (0, 1))[0]
        assert (abs(counts - 100_000 / 64) < 5 * np.sqrt(100_000 / 64)).all()


def test_every_bit_is_fair_and_independent_of_every_other():
    h = np.asarray(random_bits.murmur(1, 2, 3, (65536,)))
    bits = (h[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    correlation = np.corrcoef(bits.T)
    assert abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / 256
    assert abs(correlation - np.eye(32)).max() < 5 / 256


def test_rows_columns_steps_leaves_and_seeds_are_uncorrelated():
    shape = (256, 256)
    base = fractions(0, 5, 2, shape)
    others = {
        "next row": np.roll(base, 1, 0),
        "row 16 on": np.roll(base, 16, 0),
        "next column": np.roll(base, 1, 1),
        "column 16 on": np.roll(base, 16, 1),
        "diagonal": np.roll(base, (1, 1), (0, 1)),
        "transposed": base.T,
        **{f"step +{d}": fractions(0, 5 + d, 2, shape) for d in (1, 2, 16, 1 << 20)},
        **{f"leaf +{d}": fractions(0, 5, 2 + d, shape) for d in (1, 2, 1000)},
        **{f"seed {s}": fractions(s, 5, 2, shape) for s in (1, -1, 1 << 32, 1 << 40)},
        "step and leaf exchanged": fractions(0, 2, 5, shape),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 5 / 256, name
        assert np.mean(base == other) < 0.01, name
    assert abs(np.corrcoef(base) - np.eye(256)).max() < 6 / 16
    assert abs(np.corrcoef(base.T) - np.eye(256)).max() < 6 / 16


def test_steps_are_not_one_sequence_shifted():
    one, two = (np.asarray(random_bits.murmur(0, t, 0, (1 << 16,))) for t in (1, 2))
    assert len(np.intersect1d(one, two)) < 20  # 1 expected of 2**16 * 2**16 / 2**32 pairs


def test_weyl_is_the_published_sequence_and_spreads_in_time():
    i, t = np.arange(1000, dtype=np.uint64), np.uint64(123)
    h = np.asarray(random_bits.weyl(9, 123, 4, (1000,)))
    offset = np.asarray(random_bits.weyl(9, 0, 4, ()))
    np.testing.assert_array_equal(
        h, (i * np.uint64(0xC13FA9A9) + t * np.uint64(0x9E3779B9) + offset) % np.uint64(2**32)
    )
    u = np.sort(np.asarray([random_bits.weyl(9, t, 4, ()) for t in range(50, 150)]) / 2**32)
    assert np.diff(np.append(u, u[0] + 1)).max() < 2 / 100
    leaves = [int(random_bits.weyl(0, 0, leaf, ())) for leaf in range(50)]
    assert len(set(leaves)) == 50


@SOURCES
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (1, 7), (4, 6), (2, 3, 4)])
def test_only_the_place_counts(draw, shape):
    bits = draw(1, 2, 3, shape)
    assert bits.shape == shape
    assert bits.dtype == jnp.uint32
    flat = draw(1, 2, 3, (bits.size,))
    np.testing.assert_array_equal(np.ravel(bits), flat)
    traced = jax.jit(lambda s, t, leaf: draw(s, t, leaf, shape))(jnp.int32(1), jnp.int32(2), jnp.uint32(3))
    np.testing.assert_array_equal(traced, bits)


@SOURCES
def test_the_same_bits_on_every_layout_and_inside_shard_map(draw):
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
    whole = draw(0, 1, 2, (8, 6))
    for spec in (P("x", "y"), P(None, "x"), P("y"), P(("x", "y"))):
        if spec == P(None, "x"):
            continue  # 6 columns do not divide by 4
        sharded = jax.jit(lambda: draw(0, 1, 2, (8, 6)), out_shardings=NamedSharding(mesh, spec))()
        np.testing.assert_array_equal(sharded, whole)

    def block():
        start = (jax.lax.axis_index("x") * 2, jax.lax.axis_index("y") * 3)
        return draw(0, 1, 2, (2, 3), start=start, whole=(8, 6))

    np.testing.assert_array_equal(jax.shard_map(block, mesh=mesh, in_specs=(), out_specs=P("x", "y"))(), whole)
    with pytest.raises(ValueError, match="one start and one length"):
        draw(0, 1, 2, (2, 3), start=(0,))


@SOURCES
@pytest.mark.parametrize("whole", [(2**20, 2**14), (3, 2**20, 2**13), (2**33,)])
def test_more_elements_than_one_word_counts(draw, whole):
    """Blocks far apart, of which one word's index would be the same."""
    block = (1,) * (len(whole) - 1) + (min(whole[-1], 4096),)
    first = draw(0, 0, 0, block, start=(0,) * len(whole), whole=whole)
    far = (whole[0] // 2, *(0 for _ in whole[1:])) if len(whole) != 3 else (1, 0, 0)
    second = draw(0, 0, 0, block, start=far, whole=whole)
    jax.eval_shape(lambda: draw(0, 0, 0, whole))
    if len(whole) == 1:
        np.testing.assert_array_equal(first, second)  # one axis of 2**33: the period is documented
    else:
        assert np.mean(np.asarray(first) == np.asarray(second)) < 0.01


def test_against_the_published_finalizer():
    key = np.asarray(random_bits._key(3, 5, 4), np.uint64)
    expected = []
    for i in range(100):
        h = (i + int(key)) % 2**32
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13) ^ fmix32(int(key) ^ 0x9E3779B9)) * 0xC2B2AE35 % 2**32
        expected.append(h ^ (h >> 16))
    np.testing.assert_array_equal(random_bits.murmur(3, 4, 5, (100,)), np.asarray(expected, np.uint32))
