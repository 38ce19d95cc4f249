"""Gradient descent: plain, with Polyak's heavy ball, with Nesterov's look ahead, and with an averaged momentum.

Sutskever et al., "On the importance of initialization and momentum", ICML 2013, equations 1-4, with the learning rate
outside: z_t = mu z_{t-1} + g_t; heavy ball u = -lr z_t; Nesterov u = -lr (g_t + mu z_t) (their section 2, in terms of
the point where the gradient was taken). `ema`: z_t = mu z_{t-1} + (1-mu) g_t, and (1-mu) g_t + mu z_t likewise.
"""

from reference.arithmetic import value


class SGD:
    def __init__(self, learning_rate, momentum=None, nesterov=False, ema=False):
        self.learning_rate, self.momentum, self.nesterov, self.ema = learning_rate, momentum, nesterov, ema
        self.t, self.z = 0, 0.0

    def update(self, g, p=None):
        self.t += 1
        lr = value(self.learning_rate, self.t)
        if self.momentum is None:
            return -lr * g
        mu = value(self.momentum, self.t)
        x = (1 - mu) * g if self.ema else g
        self.z = mu * self.z + x
        return -lr * (x + mu * self.z if self.nesterov else self.z)
