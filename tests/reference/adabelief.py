r"""AdaBelief.

Zhuang et al., arXiv:2010.07468, Algorithm 2: m_t = b1 m_{t-1} + (1-b1) g_t, s_t = b2 s_{t-1} + (1-b2) (g_t - m_t)^2 + eps,
u = -lr m^_t / (sqrt(s^_t) + eps) with Adam's bias corrections. The eps inside is `eps_root` here.
"""

import numpy as np

from reference.adam import Adam
from reference.arithmetic import quotient, value


class AdaBelief(Adam):
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, nesterov=False):
        super().__init__(learning_rate, b1, b2, eps, eps_root, nesterov)

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * (g - self.m) ** 2 + self.eps_root
        self.left1, self.left2 = self.left1 * b1, self.left2 * b2
        m_hat = self.m / (1 - self.left1)
        if self.nesterov:
            m_hat = b1 * self.m / (1 - self.left1 * b1) + (1 - b1) * g / (1 - self.left1)
        return quotient(m_hat, np.sqrt(self.v / (1 - self.left2)) + self.eps)
