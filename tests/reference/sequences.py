"""Lookahead and Schedule-Free: a second sequence of parameters beside the one that is trained.

Zhang et al., "Lookahead Optimizer", arXiv:1907.08610, Algorithm 1, its two loops as one: theta_t = theta_{t-1} + u_t by
the fast optimizer; when k divides t, phi <- phi + alpha (theta_t - phi) and theta_t <- phi. Here the fast one is SGD with
a heavy ball.
"""

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
