"""SM3-II (Anil et al., arXiv:1901.11150) over rows and columns, with Optax's momentum. One call is one matrix or vector.

v = min(rows, columns) + g^2, rows = max over columns of v, columns = max over rows of v, m = b m + (1 - b) g / sqrt(v + 1e-8),
u = -lr m. A vector's sets are its elements.
"""

import numpy as np

from reference.arithmetic import value


class SM3:
    def __init__(self, learning_rate, momentum=0.9):
        self.learning_rate, self.momentum = learning_rate, momentum
        self.t, self.m, self.rows, self.columns = 0, 0.0, 0.0, np.inf

    def update(self, g, p):
        self.t += 1
        v = np.minimum(self.rows, self.columns) + g * g
        if g.ndim == 2:
            self.rows, self.columns = v.max(1, keepdims=True), v.max(0, keepdims=True)
        else:
            self.rows = v
        b = value(self.momentum, self.t)
        self.m = b * self.m + (1 - b) * g / np.sqrt(v + 1e-8)
        return -value(self.learning_rate, self.t) * self.m
