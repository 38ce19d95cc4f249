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
        "`update` checks that the state is one that its `init` made, where a stage keeps anything or a schedule counts",
    ),
    (
        r"ReduceLROnPlateauTest",
        "the tests unpack and make the five fields of Optax's state; ours is that of a chain",
    ),
    (
        r"test_lookahead_state_reset :: fast_state",
        "the state of `lookahead` is that of its chain, with the slow parameters in it, and has no `fast_state`; the "
        "reset itself is tested in tests/test_wrappers.py",
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
        r" :: hyperparameter of at least float32, got bfloat16",
        "hyperparameters in bfloat16 are refused by name: 0.999 would be 1.0",
    ),
    (
        r"wrapped_in_inject_hyperparams.* :: expected a key whose value is known",
        "the key of `noisy_sgd` says which noise it is and is no number to inject: `gradtx.inject_hyperparams` leaves "
        "it alone, and Optax's does with `static_args=('key',)`",
    ),
    (
        r"LBFGSTest.*test_against_plain_implementation",
        "after its steps on Rosenbrock's function float32 roundings have grown to 1e-4, where the test allows 1e-5: "
        "L-BFGS's pairs are stored divided by a length; in float64 both agree to 1e-8 (tests/test_lbfgs.py)",
    ),
    (
        r"test_scale_by_polyak_l1_norm",
        "the step is a direction times a length, which cannot overflow, and good to one unit in the last place; the "
        "test wants the exact minimum",
    ),
    (
        r"wrapped_in_inject_hyperparams.* :: sophia\(update_interval",
        "`update_interval` of `sophia` steers the algorithm and is no number to inject: `gradtx.inject_hyperparams` "
        "leaves it alone, and Optax's does with `static_args`",
    ),
    (
        r"test_lion_invalid_mode_raises",
        "an unknown mode is refused where the transformation is built, not at its first update",
    ),
    (
        r"test_zero_steps_schedule|ExponentialTest::test_nonvalid",
        "a schedule of no length, or with a decay rate of zero, is an error; Optax logs it and stays constant",
    ),
    (
        r"test_rms_match_adam",
        "`scale_by_adam` is nearer to exact arithmetic than Optax's `scale_by_rms`, to which it is compared to 1e-6",
    ),
    (
        r"test_tree_set :: already estimates",
        "two estimators of the same moment in one chain are an error: each belongs in a `scope`",
    ),
    (
        r" :: object has no attribute|different structures|State\(count|name='State'|string indexing|None != Array"
        r"|this State has no single|'sum_of_squares'|unexpected keyword argument 'mu'",
        "the state is a `State(count, stages)` with one count and a dict of slots a stage, not a NamedTuple for each "
        "transformation",
    ),
]
