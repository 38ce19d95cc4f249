r"""AdaMax, and with decoupled weight decay.

Kingma & Ba, arXiv:1412.6980, Algorithm 2: m_t = b1 m_{t-1} + (1-b1) g_t, u_t = max(b2 u_{t-1}, |g_t|), and the update is
-lr / (1 - b1^t) m_t / u_t; here with |g_t| + eps, as PyTorch and Optax have it.
"""

import numpy as np

from reference.arithmetic import quotient, value


class AdaMax:
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
        self.learning_rate, self.b1, self.b2, self.eps = learning_rate, b1, b2, eps
        self.t, self.m, self.largest, self.left = 0, 0.0, 0.0, 1.0

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.left = self.left * b1
        self.largest = np.maximum(b2 * self.largest, np.abs(g) + self.eps)
        return quotient(self.m / (1 - self.left), self.largest)

    def update(self, g, p=None):
        return -value(self.learning_rate, self.t + 1) * self.direction(g)


class AdaMaxW(AdaMax):
    def __init__(self, learning_rate, weight_decay=1e-4, **rest):
        super().__init__(learning_rate, **rest)
        self.weight_decay = weight_decay

    def update(self, g, p):
        lr, decay = value(self.learning_rate, self.t + 1), value(self.weight_decay, self.t + 1) * p
        return -lr * (self.direction(g) + decay)
