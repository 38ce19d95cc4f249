"""Gradient descent with Polyak's step size (Loizou et al., arXiv:2002.10542, equation 3).

x = scaling g, u = -min((f - f_min) / (|x|^2 + eps), max_lr) x. The loss is VALUE at every step.
"""

import numpy as np

from reference.arithmetic import value

VALUE = 2.0


class PolyakSGD:
    def __init__(self, max_learning_rate=1.0, scaling=1.0, f_min=0.0, eps=0.0, variant="sps"):
        self.max_learning_rate, self.scaling, self.f_min, self.eps = max_learning_rate, scaling, f_min, eps
        self.plus, self.t = variant == "sps+", 0

    def update(self, g, p):
        self.t += 1
        x = np.asarray(value(self.scaling, self.t) * g, np.longdouble)
        squared = (np.abs(x) ** 2).sum()
        gap = max(VALUE - self.f_min, 0) if self.plus else VALUE - self.f_min
        if not squared:
            return np.zeros_like(g)
        return (-min(gap / (squared + self.eps), self.max_learning_rate) * x).astype(np.asarray(g).dtype)
