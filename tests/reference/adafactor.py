"""Adafactor (Shazeer & Stern, arXiv:1804.04235, Algorithms 4 and 5). One call is one matrix or vector.

b = 1 - t^-rate, R = b R + (1 - b) mean_columns(g^2 + eps), C = b C + (1 - b) mean_rows(g^2 + eps), v = R C / mean(R); u = g
/ sqrt(v), u = u / max(1, RMS(u) / d), u = lr max(RMS(p), 1e-3) u; Optax then averages u (raw), and adds the weight decay.
"""

import numpy as np

from reference.arithmetic import quotient, value


def rms(x):
    x = np.asarray(x, np.longdouble)
    return float(np.sqrt((x * x).mean()))


class Adafactor:
    def __init__(
        self,
        learning_rate=None,
        min_dim_size_to_factor=128,
        decay_rate=0.8,
        decay_offset=0,
        multiply_by_parameter_scale=True,
        clipping_threshold=1.0,
        momentum=None,
        dtype_momentum=None,
        weight_decay_rate=None,
        eps=1e-30,
        factored=True,
    ):
        self.learning_rate, self.least, self.rate, self.offset = (
            learning_rate,
            min_dim_size_to_factor,
            decay_rate,
            decay_offset,
        )
        self.relative, self.threshold, self.momentum = multiply_by_parameter_scale, clipping_threshold, momentum
        self.weight_decay, self.eps, self.factored = weight_decay_rate, eps, factored
        self.t, self.v, self.row, self.column, self.m = 0, 0.0, 0.0, 0.0, 0.0

    def moment(self, g):
        b = 1 - float(max(self.t - self.offset, 1)) ** -self.rate
        squares = g * g + self.eps
        if not (self.factored and g.ndim == 2 and min(g.shape) >= self.least):
            self.v = b * self.v + (1 - b) * squares
            return self.v
        self.row = b * self.row + (1 - b) * squares.mean(1)
        self.column = b * self.column + (1 - b) * squares.mean(0)
        return quotient(np.outer(self.row, self.column), self.row.mean())

    def update(self, g, p):
        self.t += 1
        u = quotient(g, np.sqrt(self.moment(g)))
        if self.threshold is not None:
            u = u / max(1, rms(u) / self.threshold)
        if self.learning_rate is not None:
            u = value(self.learning_rate, self.t) * u
        if self.relative:
            u = u * max(rms(p), 1e-3)
        if self.momentum is not None:
            self.m = self.momentum * self.m + (1 - self.momentum) * u
            u = self.m
        if self.weight_decay is not None:
            u = u + self.weight_decay * p
        return -u
