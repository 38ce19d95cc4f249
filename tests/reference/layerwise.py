"""Optimizers that look at the norm of a layer. One call is one layer.

You, Gitman & Ginsburg, arXiv:1708.03888: equation 6 and Algorithm 1 (LARS), with weight decay in the gradient and the
learning rate inside the momentum: x = g + wd p, v = mu v + lr eta |p| / (|x| + eps) x, u = -v.

You et al., arXiv:1904.00962, Algorithm 2 (LAMB), phi the identity: r = m^ / (sqrt(v^) + eps), x = r + wd p,
u = -lr |p| / |x| x.

Bernstein et al., arXiv:2002.03432, Algorithm 1 (Fromage): p <- (p - lr |p| / |g| g) / sqrt(1 + lr^2), in extended precision,
since p is then subtracted.

A ratio with a norm of 0 is 1.
"""

import numpy as np

from reference.adam import Adam
from reference.arithmetic import value


def norm(x, smallest=0.0):
    x = np.asarray(x, np.longdouble)
    return max(np.sqrt((x * x).sum()), smallest)


def trust_ratio(p, u, coefficient=1.0, eps=0.0, smallest=0.0):
    of_p, of_u = norm(p, smallest), norm(u, smallest)
    return float(coefficient * of_p / (of_u + eps)) if of_p and of_u else 1.0


class LARS:
    def __init__(
        self, learning_rate, weight_decay=0.0, *, trust_coefficient=0.001, eps=0.0, momentum=0.9, nesterov=False
    ):
        self.learning_rate, self.weight_decay, self.coefficient = learning_rate, weight_decay, trust_coefficient
        self.eps, self.momentum, self.nesterov = eps, momentum, nesterov
        self.t, self.v = 0, 0.0

    def update(self, g, p):
        self.t += 1
        mu = value(self.momentum, self.t)
        x = g + value(self.weight_decay, self.t) * p
        x = -value(self.learning_rate, self.t) * trust_ratio(p, x, self.coefficient, self.eps) * x
        self.v = mu * self.v + x
        return x + mu * self.v if self.nesterov else self.v


class LAMB(Adam):
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, *, weight_decay=0.0):
        super().__init__(learning_rate, b1, b2, eps, eps_root)
        self.weight_decay = weight_decay

    def update(self, g, p):
        lr, decay = value(self.learning_rate, self.t + 1), value(self.weight_decay, self.t + 1)
        x = self.direction(g) + decay * p
        return -lr * trust_ratio(p, x) * x


class Fromage:
    def __init__(self, learning_rate, min_norm=1e-6):
        self.learning_rate, self.min_norm, self.t = learning_rate, min_norm, 0

    def update(self, g, p):
        self.t += 1
        lr = np.longdouble(value(self.learning_rate, self.t))
        p = np.asarray(p, np.longdouble)
        new = (p - lr * trust_ratio(p, g, smallest=self.min_norm) * g) / np.sqrt(1 + lr * lr)
        return (new - p).astype(np.float64)
