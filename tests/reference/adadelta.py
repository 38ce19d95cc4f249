"""AdaDelta.

Zeiler, arXiv:1212.5701, Algorithm 1: E[g^2]_t = rho E[g^2]_{t-1} + (1-rho) g_t^2, RMS[x] = sqrt(E[x^2] + eps),
dx_t = -RMS[dx]_{t-1} / RMS[g]_t g_t, E[dx^2]_t = rho E[dx^2]_{t-1} + (1-rho) dx_t^2; here with a learning rate outside, and
with weight decay in the gradient.
"""

import numpy as np

from reference.arithmetic import quotient, value


class AdaDelta:
    def __init__(self, learning_rate=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
        self.learning_rate, self.rho, self.eps, self.weight_decay = learning_rate, rho, eps, weight_decay
        self.t, self.of_g, self.of_x = 0, 0.0, 0.0

    def update(self, g, p):
        self.t += 1
        rho = value(self.rho, self.t)
        g = g + value(self.weight_decay, self.t) * p
        self.of_g = rho * self.of_g + (1 - rho) * (g * g)
        x = -quotient(np.sqrt(self.of_x + self.eps) * g, np.sqrt(self.of_g + self.eps))
        self.of_x = rho * self.of_x + (1 - rho) * (x * x)
        return value(self.learning_rate, self.t) * x
