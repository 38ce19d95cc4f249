r"""Yogi.

Zaheer et al., "Adaptive Methods for Nonconvex Optimization" (NeurIPS 2018), Algorithm 2:
v_t = v_{t-1} - (1-b2) sign(v_{t-1} - g_t^2) g_t^2, u = -lr m_t / (sqrt(v_t) + eps); here with Adam's bias corrections of
both, and v_0 = 1e-6, as in Optax.
"""

import numpy as np

from reference.adam import Adam
from reference.arithmetic import quotient, value


class Yogi(Adam):
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-3):
        super().__init__(learning_rate, b1, b2, eps)
        self.v = 1e-6

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = self.v - (1 - b2) * np.sign(self.v - g * g) * (g * g)
        self.left1, self.left2 = self.left1 * b1, self.left2 * b2
        return quotient(self.m / (1 - self.left1), np.sqrt(self.v / (1 - self.left2)) + self.eps)
