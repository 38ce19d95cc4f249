"""RMSProp.

Hinton, Srivastava & Swersky, lecture 6e (2012): v_t = b v_{t-1} + (1-b) g_t^2, u = -lr g_t / sqrt(v_t).
Centered: Graves, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850, equations 38-41:
n_t = b n_{t-1} + (1-b) g_t^2, h_t = b h_{t-1} + (1-b) g_t, Delta_t = mu Delta_{t-1} - lr g_t / sqrt(n_t - h_t^2 + eps).
Nesterov's form of that momentum: -lr g_t / root + mu Delta_t. Bias correction: Adam's, of both averages.

The difference n - h^2 is taken in extended precision, as it cancels for a constant gradient.
"""

import numpy as np

from reference.arithmetic import quotient, value


class RMSProp:
    def __init__(
        self,
        learning_rate,
        decay=0.9,
        eps=1e-8,
        initial_scale=0.0,
        eps_in_sqrt=True,
        centered=False,
        momentum=None,
        nesterov=False,
        bias_correction=False,
    ):
        self.learning_rate, self.decay, self.eps, self.eps_in_sqrt = learning_rate, decay, eps, eps_in_sqrt
        self.centered, self.momentum, self.nesterov = centered, momentum, nesterov
        self.bias_correction = bias_correction
        self.t, self.left = 0, 1.0
        self.n, self.h, self.delta = initial_scale, 0.0, 0.0

    def update(self, g, p=None):
        self.t += 1
        b = value(self.decay, self.t)
        if self.centered:
            g, b = np.asarray(g, np.longdouble), np.longdouble(b)
        self.n = b * self.n + (1 - b) * (g * g)
        self.left = self.left * b
        weight = 1 - self.left if self.bias_correction else 1.0
        second = self.n / weight
        if self.centered:
            self.h = b * self.h + (1 - b) * g
            h = self.h / weight
            second = np.maximum(second - h * h, 0).astype(np.float64)
            g = g.astype(np.float64)
        root = np.sqrt(second + self.eps) if self.eps_in_sqrt else np.sqrt(second) + self.eps
        x = -value(self.learning_rate, self.t) * quotient(g, root)
        if self.momentum is None:
            return x
        mu = value(self.momentum, self.t)
        self.delta = mu * self.delta + x
        return x + mu * self.delta if self.nesterov else self.delta
