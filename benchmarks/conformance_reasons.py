"""Why gradtx differs where it does not pass a test of Optax's: `(pattern, reason)`.

A pattern is a regular expression for the test's name, and after ` :: ` one for its message.
"""

REASONS: list[tuple[str, str]] = []
