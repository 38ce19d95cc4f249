"""Prodigy, with Adam's step.

Mishchenko & Defazio, arXiv:2306.06101, Algorithm 4: m = b1 m + (1-b1) d_k g, v = b2 v + (1-b2) d_k^2 g^2,
r = b3 r + (1-b3) gamma d_k^2 <g, x_0 - x_k>, s = b3 s + (1-b3) gamma d_k^2 g, d_{k+1} = max(d_k, r / |s|_1),
u = -gamma d_k m / (sqrt(v) + d eps). As in the authors' code: gamma = lr sqrt(1 - b2^t) / (1 - b1^t), d_{k+1} beside eps, a
coefficient of the estimate, weight decay -gamma d_k wd x_k, and with the safeguard no gamma in s.
"""

import numpy as np

from reference.arithmetic import quotient, value


class Prodigy:
    def __init__(self, learning_rate=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, estim_lr0=1e-6, estim_lr_coef=1.0,
                 weight_decay=0.0, safeguard_warmup=False):  # fmt: skip
        self.learning_rate, (self.b1, self.b2), self.eps = learning_rate, betas, eps
        self.b3 = np.sqrt(self.b2) if beta3 is None else beta3
        self.d, self.coefficient, self.weight_decay = estim_lr0, estim_lr_coef, weight_decay
        self.safeguard = safeguard_warmup
        self.t, self.x0, self.m, self.v, self.r, self.s = 0, None, 0.0, 0.0, 0.0, 0.0

    def update(self, g, p):
        self.t += 1
        self.x0 = p if self.x0 is None else self.x0
        d = self.d
        gamma = value(self.learning_rate, self.t) * np.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
        self.m = self.b1 * self.m + (1 - self.b1) * d * g
        self.v = self.b2 * self.v + (1 - self.b2) * d**2 * g**2
        self.r = self.b3 * self.r + (1 - self.b3) * gamma * d**2 * np.sum(g * (self.x0 - p))
        self.s = self.b3 * self.s + (1 - self.b3) * (1.0 if self.safeguard else gamma) * d**2 * g
        self.d = max(d, float(self.coefficient * quotient(self.r, np.sum(np.abs(self.s)))))
        direction = quotient(self.m, np.sqrt(self.v) + self.d * self.eps)
        return -gamma * d * (direction + value(self.weight_decay, self.t) * p)
