"""Lookahead and Schedule-Free: a second sequence of parameters beside the one that is trained.

Zhang et al., "Lookahead Optimizer", arXiv:1907.08610, Algorithm 1, its two loops as one: theta_t = theta_{t-1} + u_t by
the fast optimizer; when k divides t, phi <- phi + alpha (theta_t - phi) and theta_t <- phi. Here the fast one is SGD with
a heavy ball.
"""

import numpy as np

from reference.adam import AdamW
from reference.arithmetic import value
from reference.sgd import SGD


class Lookahead:
    def __init__(self, learning_rate, sync_period, slow_step_size, reset_state=False):
        self.make_fast = lambda: SGD(learning_rate, momentum=0.9)
        self.fast, self.k, self.alpha, self.reset_state = self.make_fast(), sync_period, slow_step_size, reset_state
        self.t, self.slow = 0, None

    def update(self, g, p):
        self.t += 1
        self.slow = p if self.slow is None else self.slow
        u = self.fast.update(g, p)
        if self.t % self.k:
            return u
        if self.reset_state:
            self.fast = self.make_fast()
        self.slow = self.slow + self.alpha * (p + u - self.slow)
        return self.slow - p


class ScheduleFree:
    """Defazio et al., arXiv:2405.15682, equations 3-5: z_{t+1} = z_t - gamma_t d(y_t), x_{t+1} = (1 - c) x_t + c z_{t+1},
    y_{t+1} = (1 - b1) z_{t+1} + b1 x_{t+1}, c = w_t / sum w, w_t = max(gamma_1..t)^r. The parameter is y_t, and the second
    equation gives x_t. In extended precision, since y_t is then subtracted.
    """

    def __init__(self, base, learning_rate, b1=0.9, weight_lr_power=2.0):
        self.base, self.learning_rate, self.b1, self.power = base, learning_rate, b1, weight_lr_power
        self.t, self.z, self.largest, self.total = 0, None, 0.0, 0.0

    def update(self, g, p):
        self.t += 1
        y = np.asarray(p, np.longdouble)
        z = y if self.z is None else self.z
        x = (y - (1 - self.b1) * z) / self.b1
        self.z = z + self.base.update(g, p)
        self.largest = max(self.largest, value(self.learning_rate, self.t))
        weight = self.largest**self.power
        self.total += weight
        c = weight / self.total if self.total else 0.0
        x = (1 - c) * x + c * self.z
        return ((1 - self.b1) * self.z + self.b1 * x - y).astype(np.float64)


def warmed_up(learning_rate, warmup_steps):
    if warmup_steps is None:
        return learning_rate
    return lambda count: learning_rate * min(count / warmup_steps, 1)


class ScheduleFreeSGD(ScheduleFree):
    def __init__(self, learning_rate, warmup_steps=None, weight_decay=0.0, **rest):
        self.weight_decay, rate = weight_decay, warmed_up(learning_rate, warmup_steps)
        super().__init__(SGD(rate), rate, **rest)

    def update(self, g, p):
        return super().update(g + self.weight_decay * p, p)


class ScheduleFreeAdamW(ScheduleFree):
    """Algorithm 1, its sqrt(1 - b2^t) in the direction: AdamW without a first moment."""

    def __init__(self, learning_rate, warmup_steps=None, b2=0.999, eps=1e-8, weight_decay=0.0, **rest):
        rate = warmed_up(learning_rate, warmup_steps)
        super().__init__(AdamW(rate, b1=0.0, b2=b2, eps=eps, weight_decay=weight_decay), rate, **rest)


class ScheduleFreeAround(ScheduleFree):
    """Around AdamW, with a learning rate that both are given."""

    def __init__(self, learning_rate, **rest):
        rate = (lambda count: float(learning_rate(count))) if callable(learning_rate) else learning_rate
        super().__init__(AdamW(rate, b1=0.0, weight_decay=0.1), rate, **rest)
