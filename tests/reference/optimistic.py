"""Optimistic gradient descent.

Mokhtari, Ozdaglar & Pattathil, arXiv:1901.08511, equation 7: x_{k+1} = x_k - (alpha + beta) F(x_k) + beta F(x_{k-1}), started
with F(x_0) for both, and with a learning rate outside.
"""

from reference.arithmetic import value


class OptimisticGradientDescent:
    def __init__(self, learning_rate, alpha=1.0, beta=1.0):
        self.learning_rate, self.alpha, self.beta, self.t, self.last = learning_rate, alpha, beta, 0, None

    def update(self, g, p=None):
        self.t += 1
        last = g if self.last is None else self.last
        self.last = g
        alpha, beta = value(self.alpha, self.t), value(self.beta, self.t)
        return -value(self.learning_rate, self.t) * ((alpha + beta) * g - beta * last)
