"""NovoGrad (Ginsburg et al., arXiv:1905.11286, Algorithm 1). One call is one layer.

v_1 = |g|^2, v = b2 v + (1 - b2) |g|^2, m = b1 m + g / (sqrt(v + eps_root) + eps) + wd p, u = -lr m.
"""

import numpy as np

from reference.arithmetic import quotient, value


class NovoGrad:
    def __init__(self, learning_rate, b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0):
        self.learning_rate, self.b1, self.b2, self.eps, self.eps_root = learning_rate, b1, b2, eps, eps_root
        self.weight_decay, self.t, self.v, self.m = weight_decay, 0, 0.0, 0.0

    def update(self, g, p):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        squared = float((np.abs(np.asarray(g, np.longdouble)) ** 2).sum())
        self.v = squared if self.t == 1 else b2 * self.v + (1 - b2) * squared
        direction = quotient(g, np.sqrt(self.v + self.eps_root) + self.eps)
        self.m = b1 * self.m + direction + value(self.weight_decay, self.t) * p
        return -value(self.learning_rate, self.t) * self.m
