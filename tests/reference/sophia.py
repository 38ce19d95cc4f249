"""Sophia, with curvatures that are half the gradient, so that the test needs no loss.

Liu et al., arXiv:2305.14342, Algorithm 3: u = clip(m / max(gamma h, eps), rho), h = b2 h + (1-b2) h^ every k-th step, p <- p - lr
wd p - lr u. As in Optax: m is corrected by 1 - b1^t, and h is that of the step before.
"""

import numpy as np

from reference.arithmetic import quotient, value


class Sophia:
    def __init__(self, learning_rate, b1=0.965, b2=0.99, eps=1e-8, weight_decay=1e-4, gamma=0.01, clip_threshold=1.0,
                 update_interval=10, curvature=0.5):  # fmt: skip
        self.learning_rate, self.b1, self.b2, self.eps, self.decay = learning_rate, b1, b2, eps, weight_decay
        self.gamma, self.limit, self.every, self.curvature = gamma, clip_threshold, update_interval, curvature
        self.t, self.m, self.h = 0, 0.0, 0.0

    def update(self, g, p):
        self.m = self.b1 * self.m + (1 - self.b1) * g
        m = self.m / (1 - self.b1 ** (self.t + 1))
        u = np.clip(quotient(m, np.maximum(self.gamma * self.h, self.eps)), -self.limit, self.limit)
        if self.t % self.every == 0:
            self.h = self.b2 * self.h + (1 - self.b2) * self.curvature * g
        self.t += 1
        return -value(self.learning_rate, self.t) * (u + self.decay * p)
