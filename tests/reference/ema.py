"""Exponential moving average.

Kingma & Ba, "Adam", arXiv:1412.6980, section 3: m_t = b m_{t-1} + (1-b) g_t with m_0 = 0 has the expectation
E[g] (1 - b^t) (equation 4), which the correction divides out. For b that varies the factor is 1 - prod_i b_i, by the
same argument.
"""

from reference.arithmetic import value


class EMA:
    def __init__(self, decay, debias=True):
        self.decay, self.debias = decay, debias
        self.t, self.m, self.left = 0, 0.0, 1.0

    def update(self, g, p=None):
        self.t += 1
        b = value(self.decay, self.t)
        self.m = b * self.m + (1 - b) * g
        self.left *= b
        return self.m / (1 - self.left) if self.debias else self.m
