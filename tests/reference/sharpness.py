"""Sharpness-aware minimization, one gradient a call.

Foret et al., arXiv:2010.01412, Algorithm 1: e = rho g / |g| from the gradient at w; w <- w + u by the gradient at w + e. A call
that climbs returns e; the one after it w - (w + e) + u, with the parameter it is given for w + e. Both are SGD with a heavy
ball; the one that climbs by several steps starts each climb anew if it is reset.
"""

import numpy as np

from reference.arithmetic import quotient
from reference.sgd import SGD


class SAM:
    def __init__(self, learning_rate, rho, sync_period=2, reset_state=True):
        self.make_climber = lambda: SGD(rho, momentum=0.9)
        self.down, self.up = SGD(learning_rate, momentum=0.9), self.make_climber()
        self.period, self.reset_state, self.calls, self.start = sync_period, reset_state, 0, None

    def update(self, g, p):
        place, self.calls = self.calls % self.period, self.calls + 1
        if place == 0:
            self.start = p
        if place < self.period - 1:
            g = np.asarray(g, np.longdouble)
            return -self.up.update(quotient(g, np.sqrt(np.sum(g * g)))).astype(np.float64)
        if self.reset_state:
            self.up = self.make_climber()
        return self.start - p + self.down.update(g)
