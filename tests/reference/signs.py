"""Optimizers that use the gradient's sign.

Bernstein et al., "signSGD", arXiv:1802.04434: Algorithm 1, u = -lr sign(g); Algorithm 2 (Signum), m = beta m + (1-beta) g,
u = -lr sign(m).

Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, Algorithm 2 (Lion):
c_t = b1 m_{t-1} + (1-b1) g_t, u = -lr (sign(c_t) + wd p), m_t = b2 m_{t-1} + (1-b2) g_t.

Igel & Huesken, "Improving the Rprop learning algorithm", NC 2000, section 2.3 (iRprop-): as Riedmiller & Braun, ICNN 1993,
but where the sign turns the gradient is taken as 0: the step size shrinks, nothing moves, and the next step neither grows
nor shrinks. Element by element, as the pseudocode has it.
"""

import numpy as np

from reference.arithmetic import value


class SignSGD:
    def __init__(self, learning_rate):
        self.learning_rate, self.t = learning_rate, 0

    def update(self, g, p=None):
        self.t += 1
        return -value(self.learning_rate, self.t) * np.sign(g)


class Signum:
    def __init__(self, learning_rate, beta=0.9):
        self.learning_rate, self.beta, self.t, self.m = learning_rate, beta, 0, 0.0

    def update(self, g, p=None):
        self.t += 1
        b = value(self.beta, self.t)
        self.m = b * self.m + (1 - b) * g
        return -value(self.learning_rate, self.t) * np.sign(self.m)


class Lion:
    def __init__(self, learning_rate, b1=0.9, b2=0.99, *, weight_decay=1e-3):
        self.learning_rate, self.b1, self.b2, self.weight_decay = learning_rate, b1, b2, weight_decay
        self.t, self.m = 0, 0.0

    def update(self, g, p):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        c = b1 * self.m + (1 - b1) * g
        self.m = b2 * self.m + (1 - b2) * g
        return -value(self.learning_rate, self.t) * (np.sign(c) + value(self.weight_decay, self.t) * p)


class Rprop:
    def __init__(self, learning_rate, eta_minus=0.5, eta_plus=1.2, min_step_size=1e-6, max_step_size=50.0):
        self.start, self.minus, self.plus = learning_rate, eta_minus, eta_plus
        self.smallest, self.largest = min_step_size, max_step_size
        self.sizes = self.last = None

    def update(self, g, p=None):
        if self.sizes is None:
            self.sizes, self.last = np.full(g.shape, self.start), np.zeros(g.shape)
        u = np.zeros(g.shape)
        for i in np.ndindex(g.shape):
            gradient = np.sign(g[i])
            if self.last[i] * gradient > 0:
                self.sizes[i] = min(self.sizes[i] * self.plus, self.largest)
            elif self.last[i] * gradient < 0:
                self.sizes[i] = max(self.sizes[i] * self.minus, self.smallest)
                gradient = 0.0
            u[i] = -gradient * self.sizes[i]
            self.last[i] = gradient
        return u
