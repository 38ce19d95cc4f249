"""L-BFGS by its matrices (Nocedal & Wright, 2nd edition, equations 7.16, 7.19 and 7.20), where the code has two loops.

H = gamma I, then for each of the last m pairs (s, y) from the oldest on: H = V^T H V + s s^T / y^T s, V = I - y s^T / y^T s;
u = -lr H g. gamma = s^T y / y^T y, or min(1, 1 / |g|) where no pair has curvature to tell.
"""

import numpy as np

from reference.arithmetic import value


class LBFGS:
    def __init__(self, learning_rate=1.0, memory_size=10, scale_init_precond=True, linesearch=None):
        self.learning_rate, self.size, self.scaled = learning_rate, memory_size, scale_init_precond
        self.t, self.pairs, self.last = 0, [], None

    def update(self, g, p):
        self.t += 1
        shape, g, p = np.shape(g), np.ravel(np.asarray(g, np.longdouble)), np.ravel(np.asarray(p, np.longdouble))
        if self.last is not None:
            self.pairs = [*self.pairs, (p - self.last[1], g - self.last[0])][-self.size :]
        self.last = g, p
        gamma, identity = 1 / max(1, np.sqrt(g @ g)), np.eye(g.size, dtype=np.longdouble)
        if self.pairs and self.pairs[-1][0] @ self.pairs[-1][1]:
            s, y = self.pairs[-1]
            gamma = s @ y / (y @ y)
        inverse = gamma * identity if self.scaled else identity
        for s, y in self.pairs:
            if s @ y:
                v = identity - np.outer(y, s) / (y @ s)
                inverse = v.T @ inverse @ v + np.outer(s, s) / (y @ s)
        return (-value(self.learning_rate, self.t) * (inverse @ g)).reshape(shape).astype(np.float64)
