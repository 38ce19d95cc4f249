"""Why gradtx differs where it does not pass a test of Optax's: `(pattern, reason)`.

A pattern is a regular expression for the test's name, and after ` :: ` one for its message.
"""

REASONS: list[tuple[str, str]] = [
    (
        r"test_explicit_dtype :: losing its imaginary part|is real here",
        "a complex moment stored as a real dtype loses its imaginary part, and a real one needs no complex dtype: both "
        "are refused by name",
    ),
    (
        r"test_explicit_dtype :: bfloat16.* != .*float32",
        "state is float32 for bfloat16 parameters unless another dtype is asked for (Optax: the parameters')",
    ),
    (
        r" :: expected the state of a chain",
        "`update` checks that the state is one that its `init` made; the test passes None, or an empty one of its own",
    ),
    (
        r"LookaheadTest :: fast/x",
        "`lookahead` keeps the slow parameters in its state: a stage like any other, without pairs of parameters",
    ),
    (
        r" :: (expected a floating or complex (gradient|parameter).* int32|got int32)",
        "integer parameters and gradients are refused: they cannot take a step, and Optax truncates it",
    ),
    (
        r"test_none_argument_apply_updates :: has None there",
        "an update for a parameter that is None is refused, not dropped",
    ),
    (
        r"test_none_argument :: different trees",
        "a parameter without a gradient is refused, not skipped: `None` belongs in both trees",
    ),
    (
        r" :: object has no attribute '(ema|found_nan)'|Trees have different structures",
        "the state is a `State(count, stages)` with a dict of slots a stage, not a NamedTuple for each transformation",
    ),
]
