"""Storage formats: every code against a brute-force nearest one, unbiased rounding, and the values at the edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx._core import random_bits
from gradtx._storage import bits, block8, float16, log16, packed16, packed32, ratio8

WORDS = np.arange(65536, dtype=np.uint16)
MIDDLE = np.uint32(1 << 31)
LARGEST = np.finfo(np.float32).max
SCALES = (1.0, 0.7)


def as_float(words, dtype):
    return np.asarray(jax.lax.bitcast_convert_type(jnp.asarray(words), dtype).astype(jnp.float32))


def draw(function, *arrays, random=MIDDLE, scale=None):
    """Run an encoder on float32 arrays, all elements with the same random word or each with its own."""
    arrays = [jnp.asarray(a, jnp.float32) for a in arrays]
    random = jnp.broadcast_to(jnp.asarray(random, jnp.uint32), arrays[0].shape)
    more = () if scale is None else (jnp.float32(scale),)
    return jax.jit(function)(*arrays, *more, random)


def nearest(x, sorted_values):
    """For each x the value of the list that is nearest, by exhaustive search."""
    x = np.asarray(x, np.float64)
    return np.asarray([sorted_values[np.argmin(abs(sorted_values - value))] for value in x])


class Scalar:
    """A format of one array: how to encode and decode, and the values that its codes stand for."""

    def __init__(self, encode, decode, scaled, signed):
        self.encode_, self.decode_, self.scaled, self.signed = encode, decode, scaled, signed

    def encode(self, x, random=MIDDLE, scale=1.0):
        return draw(self.encode_, x, random=random, scale=scale if self.scaled else None)

    def decode(self, code, scale=1.0):
        return np.asarray(self.decode_(code, jnp.float32(scale)) if self.scaled else code.astype(jnp.float32))

    def round(self, x, random=MIDDLE, scale=1.0):
        return self.decode(self.encode(x, random, scale), scale)

    def values(self, scale=1.0):
        if self.scaled:
            return self.decode(jnp.asarray(WORDS), scale)
        return as_float(WORDS, jnp.bfloat16 if self.encode_ is float16.encode_bfloat16 else jnp.float16)


FORMATS = {
    "bfloat16": Scalar(float16.encode_bfloat16, None, scaled=False, signed=True),
    "float16": Scalar(float16.encode_float16, None, scaled=False, signed=True),
    "log16 unsigned": Scalar(log16.encode_unsigned, log16.decode_unsigned, scaled=True, signed=False),
    "log16 signed": Scalar(log16.encode_signed, log16.decode_signed, scaled=True, signed=True),
}
EACH = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)


@EACH
def test_each_code_stays(format):
    """Decoded and encoded again, whatever the random bits: what is exact is not rounded."""
    values = format.values()
    for random in (0, MIDDLE, 0xFFFFFFFF):
        again = format.round(values, random)
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(np.signbit(again[values == 0]), np.signbit(values[values == 0]))


@EACH
@pytest.mark.parametrize("scale", SCALES)
def test_the_nearest_code_by_brute_force(format, scale):
    if scale != 1.0 and not format.scaled:
        return
    values = format.values(scale)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    rng = np.random.default_rng(0)
    # Uniform in the logarithm over the whole range, and two decades of common values.
    small = np.sort(values[values > 0])
    x = np.exp(rng.uniform(np.log(small[1]), np.log(small[-1]), 300))
    x = np.concatenate([x, rng.uniform(0.01, 1, 100)]) * (rng.choice([-1, 1], 400) if format.signed else 1)
    if FORMATS["bfloat16"] is format:
        x = x[abs(x) > 1e-30]  # NumPy and XLA differ on how float64 becomes a subnormal float32
    x = x.astype(np.float32)
    got, best = format.round(x, MIDDLE, scale).astype(np.float64), nearest(x, values)
    # Half a spacing away both neighbours are right, up to the last bits of x / scale.
    spacing = abs(got - best)
    assert (abs(got - x) <= abs(best - x) + 1e-3 * spacing).all()


@EACH
def test_rounding_is_unbiased_over_100000_draws(format):
    random = random_bits.murmur(0, 1, 2, (100_000,))
    for x in (0.3, 1.2345e-3, 3.9e-6, 1000.7):
        rounded = format.round(np.full(100_000, x, np.float32), random).astype(np.float64)
        low, high = np.unique(rounded)
        assert low < np.float32(x) < high
        assert np.isin([low, high], format.values()).all()
        deviation = np.sqrt((x - low) * (high - x) / 100_000)
        assert abs(rounded.mean() - np.float64(np.float32(x))) < 4.5 * deviation


@EACH
def test_edges(format):
    x = np.asarray([0.0, 1e-40, 1e-30, LARGEST, np.inf, np.nan], np.float32)
    nans = np.asarray([0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000], np.uint32).view(np.float32)
    for random in (0, MIDDLE, 0xFFFFFFFF):
        zero, subnormal, tiny, largest, infinite, nan = format.round(x, random)
        assert zero == 0
        assert np.isfinite([subnormal, tiny, largest]).all()
        assert largest == np.nanmax(np.where(np.isfinite(format.values()), format.values(), 0))
        assert np.isposinf(infinite)
        assert np.isnan(nan)
        assert np.isnan(format.round(nans, random)).all()
        if format.scaled:
            assert subnormal > 0
            assert tiny > 0
            assert np.isfinite(format.round(x[3:4], random, 0.51))
        if format.signed:
            np.testing.assert_array_equal(format.round(-x, random), -format.round(x, random))


def test_log16_covers_its_range_twice_or_four_times_finer_than_bfloat16():
    for name, step in (("log16 unsigned", 2.0**-9), ("log16 signed", 2.0**-8)):
        values = FORMATS[name].values()
        values = np.unique(values[(values > 0) & np.isfinite(values)]).astype(np.float64)
        assert values[-1] / values[0] > 2.0**127.9
        assert (np.diff(values) / values[:-1]).max() <= step


def levels(word):
    """k of packed16's words."""
    k = np.asarray(word).astype(int) & 127
    return k - 128 * (k >= 64)


ORDINARY = (WORDS >> 7 >= 4) & (abs(levels(WORDS)) <= 62)  # words that encode may return for v > 0


@pytest.mark.parametrize("scale", SCALES)
def test_packed16_each_word_stays(scale):
    m, v = jax.jit(packed16.decode)(jnp.asarray(WORDS), jnp.float32(scale))
    assert np.isfinite(np.asarray(m)[ORDINARY]).all()
    assert (np.asarray(v)[ORDINARY] > 0).all()
    for random in (1 << 12, MIDDLE, 0xFFFFFFFF - (1 << 12)):
        again = draw(packed16.encode, m, v, random=random, scale=scale)
        np.testing.assert_array_equal(np.asarray(again)[ORDINARY], WORDS[ORDINARY])
    assert np.isneginf(np.asarray(m)[levels(WORDS) == -64]).all()
    assert np.isfinite(v).all()


@pytest.mark.parametrize("scale", SCALES)
def test_packed16_the_nearest_codes_by_brute_force(scale):
    rng = np.random.default_rng(1)
    v = np.exp(rng.uniform(np.log(2.0**-80), np.log(2.0**44), 300)).astype(np.float32)
    m = (np.sqrt(v) * rng.normal(0, 0.5, 300)).astype(np.float32)
    got_m, got_v = packed16.decode(draw(packed16.encode, m, v, scale=scale), jnp.float32(scale))
    _, values = packed16.decode(jnp.asarray(WORDS[::128][4:]), jnp.float32(scale))
    best = nearest(v, np.asarray(values, np.float64))
    assert (abs(got_v - v) <= abs(best - v) * (1 + 1e-5)).all()
    # Given v as stored, k is the nearest level of the companded ratio to its root, in which 1 + f has become 1 + f / 2.
    fraction, exponent = np.frexp(np.asarray(got_v, np.float64) / scale)
    odd = exponent % 2 == 0  # frexp's fraction is in [1/2, 1)
    root = np.where(odd, 1 + fraction, 0.5 + fraction) * 2.0 ** ((exponent - np.where(odd, 2, 1)) / 2)
    root = 0.25 * np.sqrt(scale) * root
    exact = 0.25 * np.sqrt(np.asarray(got_v, np.float64))
    assert ((exact * (1 - 1e-6) <= root) & (root <= 1.061 * exact)).all()
    target = 64 * m / (abs(m) + root)
    table = np.arange(-62, 63)
    best_k = table[np.argmin(abs(table[:, None] - target), axis=0)]
    expected = root * best_k / (64 - abs(best_k))
    np.testing.assert_allclose(got_m, expected, rtol=1e-5)


@pytest.mark.parametrize("module", [packed16, packed32])
def test_packed_rounding_of_v_is_unbiased_over_100000_draws(module):
    random = random_bits.murmur(3, 1, 2, (100_000,))
    for x, scale in itertools.product((0.3, 7.7e-9), SCALES):
        v = np.full(100_000, x, np.float32)
        m, got = module.decode(draw(module.encode, 0.2 * np.sqrt(v), v, random=random, scale=scale), jnp.float32(scale))
        got = np.asarray(got, np.float64)
        low, high = np.unique(got)
        assert low < x < high
        assert abs(got.mean() - np.float32(x)) < 4.5 * np.sqrt((x - low) * (high - x) / 100_000)
        error = abs(np.asarray(m, np.float64).mean() / (0.2 * np.sqrt(x)) - 1)
        assert error < (0.02 if module is packed16 else 1e-4)  # a ratio of which numerator and scale both are rounded


def test_packed32_keeps_bfloat16_and_eight_bits_of_v():
    rng = np.random.default_rng(2)
    v = np.exp(rng.uniform(np.log(1e-37), np.log(1e38), 4000)).astype(np.float32)
    m = np.exp(rng.uniform(np.log(1e-37), np.log(1e38), 4000)).astype(np.float32) * rng.choice([-1, 1], 4000)
    for scale in SCALES:
        got_m, got_v = packed32.decode(draw(packed32.encode, m, v, scale=scale), jnp.float32(scale))
        np.testing.assert_allclose(got_v, v, rtol=2.0**-9 + 1e-6)
        np.testing.assert_allclose(got_m, m, rtol=2.0**-8)
        np.testing.assert_array_equal(got_m, FORMATS["bfloat16"].round(m))


@pytest.mark.parametrize("module", [packed16, packed32])
@pytest.mark.parametrize("scale", SCALES)
def test_packed_edges(module, scale):
    def through(m, v, random):
        word = draw(module.encode, np.asarray([m]), np.asarray([v]), random=random, scale=scale)
        return [np.asarray(x)[0] for x in module.decode(word, jnp.float32(scale))]

    nans = np.asarray([0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000, 0x7FC00000], np.uint32).view(np.float32)
    for random in (0, MIDDLE, 0xFFFFFFFF):
        assert through(0.0, 0.0, random) == [0, 0]
        for v in (1e-45, 1e-40, 1e-38, 1e-20):
            assert 0 < through(0.0, v, random)[1] < 1e-19
        m, v = through(1e19, LARGEST, random)
        assert np.isfinite(m)
        assert 1e13 < v < np.inf
        for bad in (np.inf, -np.inf, *nans):
            m, v = through(bad, 1.0, random)
            assert not np.isfinite(m)
        for bad in nans:
            assert not np.isfinite(through(1.0, bad, random)).all()
        m, v = through(1.0, np.inf, random)
        assert (m, v) == (-np.inf, v) if module is packed16 else 1e38 < v < np.inf
    word = draw(module.encode, np.zeros((3, 0)), np.zeros((3, 0)), scale=scale)
    assert word.shape == (3, 0)
    fresh = module.decode(jnp.zeros((2,), word.dtype), jnp.float32(scale))
    np.testing.assert_array_equal(fresh, np.zeros((2, 2), np.float32))


def test_packed16_never_updates_by_more_than_its_bound():
    rng = np.random.default_rng(3)
    m = (10 ** rng.uniform(-15, 10, 4000) * rng.choice([-1, 1], 4000)).astype(np.float32)
    v = (10 ** rng.uniform(-30, 20, 4000)).astype(np.float32)
    m, v = packed16.decode(draw(packed16.encode, m, v, random=random_bits.murmur(0, 0, 0, (4000,)), scale=0.8), 0.8)
    assert (abs(m) <= 8.23 * np.sqrt(v)).all()
    cauchy = (1 - 0.9) / np.sqrt((1 - 0.999) * (1 - 0.9**2 / 0.999))
    assert cauchy < 62 / (64 - 62) / 4 < 1.1 * cauchy


def test_the_scale_follows_the_decay_and_starts_anew():
    t = np.arange(1, 3000)
    retain = 1 - 0.001 / (1 - 0.999**t)  # 0 in the first step
    retain[0] = 0
    step = lambda scale, r: (bits.next_scale(scale, r),) * 2  # noqa: E731
    scale, scales = jax.lax.scan(step, jnp.float32(0), jnp.asarray(retain, jnp.float32))
    assert ((scales > 0.5) & (scales <= 1)).all()
    ratio = np.log2(np.prod(retain[1:]) / float(scale))
    assert abs(ratio - round(ratio)) < 1e-3
    for odd in (0.0, np.inf, np.nan, -1.0, 1e-40):
        assert bits.next_scale(jnp.float32(1), jnp.float32(odd)) == 1
    assert bits.next_scale(jnp.float32(1), jnp.float32(0.25)) == 1


def adam(module, gradients, b1=0.9, b2=0.999, source=random_bits.weyl):
    """v and the update after each step, as stored and in float32, for gradients [steps, elements]."""
    dtype = jnp.uint16 if module is packed16 else jnp.uint32

    def step(carry, g):
        word, scale, m0, v0, t = carry
        t = t + 1
        rates = [(1 - b) / -jnp.expm1(t.astype(jnp.float32) * np.float32(np.log1p(b - 1))) for b in (b1, b2)]
        q1, q2 = (jnp.minimum(q, 1) for q in rates)
        m, v = module.decode(word, scale)
        scale = bits.next_scale(scale, 1 - q2)
        bits_ = source(0, t, 0, g.shape)
        word = module.encode(m + q1 * (g - m), v + q2 * (g * g - v), scale, bits_)
        m, v = module.decode(word, scale)
        m0, v0 = m0 + q1 * (g - m0), v0 + q2 * (g * g - v0)
        return (word, scale, m0, v0, t), (v, v0, m / jnp.sqrt(v), m0 / jnp.sqrt(v0))

    zeros = jnp.zeros(gradients.shape[1], jnp.float32)
    start = (zeros.astype(dtype), jnp.float32(1), zeros, zeros, jnp.int32(0))
    return [
        np.asarray(x) for x in jax.jit(lambda g: jax.lax.scan(step, start, g))(jnp.asarray(gradients, jnp.float32))[1]
    ]


@pytest.mark.parametrize("module", [packed16, packed32])
def test_a_pure_decay_is_exact_and_nothing_stalls(module):
    """After one gradient only zeros: v follows its decay for a thousand steps with hardly a rounding."""
    gradients = np.zeros((1000, 512), np.float32)
    gradients[0] = np.exp(np.random.default_rng(0).normal(-5, 3, 512))
    v, v0, update, _ = adam(module, gradients, b2=0.9999)
    error = v[-1] / v[0] / (v0[-1, 0] / v0[0, 0]) - 1
    # An ULP of v / S is 2**-15 of packed32's step, 2**-21 of packed16's: so likely is a rounding, each time.
    assert np.mean(abs(error) > 1e-4) < (0.03 if module is packed32 else 0.003)
    assert abs(error).max() < (2.0**-8 if module is packed32 else 0.25) + 1e-4
    assert abs(update[-1]).max() < 1e-6  # m is gone: rounding to nearest would keep it at some level for ever


@pytest.mark.parametrize("module", [packed16, packed32])
@pytest.mark.parametrize("b2", [0.999, 0.9999])
def test_v_follows_a_gradient_that_shrinks(module, b2):
    rng = np.random.default_rng(1)
    steps = 4000
    gradients = rng.normal(size=(steps, 256)) * np.where(np.arange(steps) < 300, 1, 0.1)[:, None]
    v, v0, *_ = adam(module, gradients, b2=b2)
    assert abs(v[-1].mean() / v0[-1].mean() - 1) < 0.05


@pytest.mark.parametrize("module", [packed16, packed32])
@pytest.mark.parametrize("size", [1e-12, 1e-8, 1.0, 1e6])
def test_no_scale_saturates(module, size):
    gradients = np.random.default_rng(2).normal(size=(300, 512)) * size
    _, _, update, exact = adam(module, gradients)
    error = np.linalg.norm(update[50:] - exact[50:]) / np.linalg.norm(exact[50:])
    assert error < (0.16 if module is packed16 else 0.012)


@pytest.mark.parametrize("module", [packed16, packed32])
@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_a_sudden_change_of_scale_recovers(module, factor):
    """With b2 = .9, so that float32 itself recovers within the test."""
    gradients = np.random.default_rng(3).normal(size=(600, 512)) * 1e-3
    gradients[200:] *= factor
    _, _, update, exact = adam(module, gradients, b2=0.9)
    assert np.isfinite(update).all()
    assert abs(update).max() <= 8.3
    late = slice(500, None)
    error = np.linalg.norm(update[late] - exact[late]) / np.linalg.norm(exact[late])
    assert error < (0.2 if module is packed16 else 0.02)


CODES = np.arange(-127, 128)


def test_ratio8_codes_stay_and_are_the_nearest():
    root = np.float32(3.7e-5)
    codes = jnp.asarray(CODES, jnp.int8)
    m = ratio8.decode(codes, jnp.full(255, root))
    assert abs(m).max() <= 7.94 * root
    for random in (1 << 20, MIDDLE, 0xFFFFFFFF - (1 << 20)):
        again = draw(ratio8.encode, m, np.full(255, root), random=random)
        np.testing.assert_array_equal(again, codes)
    x = np.random.default_rng(0).normal(0, 0.5, 1000).astype(np.float32) * root
    got = draw(ratio8.encode, x, np.full(1000, root))
    target = 131 * x / (abs(x) + 0.25 * root)
    np.testing.assert_array_equal(got, CODES[np.argmin(abs(CODES[:, None] - target), axis=0)])


def test_ratio8_edges():
    m = np.asarray([0, 1e-40, LARGEST, 1, np.inf, -np.inf, np.nan, 1, 1], np.float32)
    root = np.asarray([0, 0, 1, 1e-40, 1, 1, 1, np.inf, np.nan], np.float32)
    code = draw(ratio8.encode, m, root, random=random_bits.murmur(0, 0, 0, (9,)))
    np.testing.assert_array_equal(code[0], 0)
    np.testing.assert_array_equal(code[4:], -128)
    got = ratio8.decode(code, jnp.asarray(np.where(np.isfinite(root), root, 1)))
    assert np.isfinite(np.asarray(got)[:4]).all()
    assert np.isnan(np.asarray(got)[4:]).all()


@pytest.mark.parametrize("shape", [(5, 700), (256,), (1,), (2, 3, 256), (4, 0)])
@pytest.mark.parametrize("signed", [True, False])
def test_block8_is_the_nearest_code_of_its_block(shape, signed):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 10.0 ** rng.uniform(-6, 6, (*shape[:-1], 1))).astype(np.float32)
    encode, decode = (
        (block8.encode_signed, block8.decode_signed) if signed else (block8.encode_root, block8.decode_root)
    )
    x, values = (x, x) if signed else (abs(x), np.square(x))
    codes, scales = draw(encode, values)
    assert codes.shape == shape
    assert scales.shape == (*shape[:-1], -(-shape[-1] // 256))
    got = np.asarray(decode(codes, scales)) if signed else np.sqrt(decode(codes, scales))
    top = 127 if signed else 255
    k = np.arange(-top if signed else 1, top + 1)
    for row, got_row in zip(np.atleast_2d(x), np.atleast_2d(got)) if len(shape) < 3 else zip(x[0], got[0]):
        for i in range(0, shape[-1], 256):
            y = np.float64(row[i : i + 256]) / abs(row[i : i + 256]).max()
            target = top * (1 + 1 / 16) * y / (abs(y) + 1 / 16)
            distance = abs(k[:, None] - target)
            best = k[np.argmin(distance, axis=0)]
            expected = best / 16 / (top * (1 + 1 / 16) - abs(best)) * abs(row[i : i + 256]).max()
            clear = abs(target % 1 - 0.5) > 1e-3  # half way both neighbours are right
            np.testing.assert_allclose(got_row[i : i + 256][clear], expected[clear], rtol=1e-4, atol=0)


def test_block8_edges():
    x = np.zeros((4, 512), np.float32)
    x[0, 3], x[1, 300], x[2, :] = np.inf, np.nan, 1e-40
    x[3, :2] = 1, 1e-30
    m = np.asarray(block8.decode_signed(*draw(block8.encode_signed, x)))
    v = np.asarray(block8.decode_root(*draw(block8.encode_root, x)))
    for got in (m, v):
        assert np.isnan(got[0, :256]).all()
        assert np.isnan(got[1, 256:]).all()
        np.testing.assert_array_equal(got[0, 256:], 0)
        np.testing.assert_array_equal(got[1, :256], 0)
        assert got[3, 0] == pytest.approx(1)
        np.testing.assert_array_equal(got[3, 2:], 0)
    assert v[3, 1] > 0  # no code of v but 0 decodes to 0


def test_block8_rounding_is_unbiased():
    x = np.tile(np.linspace(-1, 1, 256, dtype=np.float32), (2000, 1))
    random = random_bits.murmur(0, 0, 0, x.shape)
    got = np.asarray(block8.decode_signed(*draw(block8.encode_signed, x, random=random)), np.float64)
    step = 2 * (abs(x[0]) + 1 / 16) ** 2 / (1 / 16 * 127 * (1 + 1 / 16))
    # Unbiased in the code, not quite in the value: that is the companding's curvature.
    assert (abs(got.mean(0) - x[0]) < 5 * step / np.sqrt(2000) + 0.15 * step**2).all()
