"""THE table: every primitive and optimizer, as the contract tests and the cross-checks see it.

To add an optimizer, add a row to its family in `rows/`; the contracts of test_contracts.py then hold it to everything
the others keep.
"""

# One module a line: families are added side by side.
from rows import adams as adams
from rows import adams_later as adams_later
from rows import classics as classics
from rows import curvature as curvature
from rows import distance as distance
from rows import factored as factored
from rows import groups as groups
from rows import layerwise as layerwise
from rows import matrices as matrices
from rows import mending as mending
from rows import primitives as primitives
from rows import probes as probes
from rows import quasi_newton as quasi_newton
from rows import rounding as rounding
from rows import sequences as sequences
from rows import sharpness as sharpness
from rows import signs as signs
from rows import stochastic as stochastic
from rows import wrappers as wrappers
from rows.row import Row

__all__ = ["BY_NAME", "OPTIMIZERS", "PRIMITIVES", "ZOO", "Row"]

OPTIMIZERS = [
    *classics.ROWS,
    *adams.ROWS,
    *adams_later.ROWS,
    *matrices.OPTIMIZERS,
    *layerwise.ROWS,
    *signs.ROWS,
    *sequences.ROWS,
    *curvature.ROWS,
    *factored.OPTIMIZERS,
    *stochastic.OPTIMIZERS,
    *quasi_newton.OPTIMIZERS,
    *distance.ROWS,
    *sharpness.OPTIMIZERS,
]
PRIMITIVES = [
    *primitives.ROWS,
    *mending.ROWS,
    *groups.ROWS,
    *wrappers.ROWS,
    *matrices.PRIMITIVES,
    *sharpness.PRIMITIVES,
    *factored.PRIMITIVES,
    *stochastic.PRIMITIVES,
    *adams_later.PRIMITIVES,
    *quasi_newton.PRIMITIVES,
    *rounding.ROWS,
    *probes.ROWS,
]
ZOO = OPTIMIZERS + PRIMITIVES
BY_NAME = {row.name: row for row in ZOO}
assert len(BY_NAME) == len(ZOO)
