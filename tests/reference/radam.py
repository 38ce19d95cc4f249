r"""RAdam.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265, Algorithm 2: Adam's m^ and v^;
rho_inf = 2 / (1 - b2) - 1, rho_t = rho_inf - 2 t b2^t / (1 - b2^t); u = -lr r_t m^ / (sqrt(v^) + eps) where rho_t reaches
the threshold, else -lr m^, with r_t^2 = (rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t).

rho_t is the length of the simple average with the same centre of mass as the exponential one (section 4.1), and so for
decays that vary: 2 (sum_i w_i (t + 1 - i)) / (sum_i w_i) - 1 with the weight w_i of gradient i. That sum is what is
computed, for constant decays too: the difference above cancels.
"""

import numpy as np

from reference.adam import Adam
from reference.arithmetic import quotient, value


class RAdam(Adam):
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, nesterov=False):
        super().__init__(learning_rate, b1, b2, eps, eps_root, nesterov)
        self.threshold, self.weights, self.ages = threshold, 0.0, 0.0

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * (g * g)
        self.left1, self.left2 = self.left1 * b1, self.left2 * b2
        m_hat = self.m / (1 - self.left1)
        if self.nesterov:
            m_hat = b1 * self.m / (1 - self.left1 * b1) + (1 - b1) * g / (1 - self.left1)
        v_hat = self.v / (1 - self.left2)
        # Each gradient so far is a step older, and loses b2 of its weight; this step's has the age 1.
        self.ages = b2 * (self.ages + self.weights) + (1 - b2)
        self.weights = b2 * self.weights + (1 - b2)
        rho, rho_inf = 2 * self.ages / self.weights - 1, 2 / (1 - b2) - 1
        if rho < self.threshold or min(rho, rho_inf) <= 4:
            return m_hat
        r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return r * quotient(m_hat, np.sqrt(v_hat + self.eps_root) + self.eps)
