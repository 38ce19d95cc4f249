r"""PSGD with a Kronecker-factored preconditioner.

Li, "Preconditioned Stochastic Gradient Descent", arXiv:1512.04202, section IV, and arXiv:2402.11858: with
A = Q_L G Q_R^T and B = Q_L^{-T} V Q_R^{-1}, Q_L <- Q_L - mu triu(A A^T - B B^T) / ||A A^T + B B^T|| Q_L, Q_R likewise with
A^T A and B^T B, and P g = Q_L^T Q_L g Q_R^T Q_R. The norm is the lower bound of the author's implementation: with a_j the
largest column of X and y = X a_j, it is ||X y|| / ||y||. Diagonal factors are whole matrices here. As in
https://github.com/evanatyourservice/psgd_jax: V times the root of float32's epsilon and the mean of |G| is added to G, an
update is clipped to a root mean square of 1.1, and Q is updated when the steps since the last time reach 1 / probability.
V holds random signs, drawn as documented: from a key of the seed, folded with the step.
"""

import jax
import numpy as np

from reference.arithmetic import quotient, value


def probability(count):
    return min(1.0, max(0.03, np.exp(-(count - 250) / 1000)))


def norm(x):
    a = x[:, np.argmax((x * x).sum(0))]
    y = x @ a
    return np.linalg.norm(x @ (y / np.linalg.norm(y)))


class Kron:
    def __init__(self, learning_rate=0.001, b1=0.9, weight_decay=0.0, preconditioner_update_probability=None,
                 max_size_triangular=8192, min_ndim_triangular=2, memory_save_mode=None,
                 momentum_into_precond_update=True, precond_lr=0.1, precond_init_scale=1.0, *, seed=0,
                 dimension_numbers=None):  # fmt: skip
        self.learning_rate, self.b1, self.weight_decay = learning_rate, b1, weight_decay
        given = preconditioner_update_probability
        self.probability = probability if given is None else given
        self.max_size, self.min_ndim, self.mode = max_size_triangular, min_ndim_triangular, memory_save_mode
        self.from_momentum, self.precond_lr, self.scale = momentum_into_precond_update, precond_lr, precond_init_scale
        self.seed, self.vectors = seed, dimension_numbers is not None
        self.t, self.waited, self.m, self.left_over, self.q = 0, 0, 0.0, 1.0, None

    def start(self, shape):
        ndim = 1 if self.vectors else len(shape)
        rows, columns = shape if ndim == 2 else (1, int(np.prod(shape)))
        exist = [rows > 1, columns > 1 or rows == 1]
        longer = [rows > columns, columns >= rows]
        self.q, self.diagonal = [], []
        for n, there, long in zip((rows, columns), exist, longer):
            self.q.append(np.eye(n) * self.scale ** (1 / sum(exist)) if there else None)
            self.diagonal.append(
                n > self.max_size
                or ndim < self.min_ndim
                or self.mode == "all_diag"
                or (self.mode == "one_diag" and long)
            )
        self.shape = (rows, columns)

    def factors(self):
        return [np.eye(n) if q is None else q for q, n in zip(self.q, self.shape)]

    def learn(self, g):
        key = jax.random.fold_in(jax.random.key(self.seed), self.t - 1)
        v = np.asarray(jax.random.rademacher(key, (1, *self.shape), np.int8)[0], np.float64)
        left, right = self.factors()
        g = g + 2.0**-11.5 * np.abs(g).mean() * v
        a, b = left @ g @ right.T, np.linalg.inv(left).T @ v @ np.linalg.inv(right)
        for i, (x, y) in enumerate([(a, b), (a.T, b.T)]):
            if self.q[i] is None:
                continue
            gain, loss = x @ x.T, y @ y.T
            if self.diagonal[i]:
                step = np.diag(np.diag(gain - loss)) / np.diag(gain + loss).max()
            else:
                step = np.triu(gain - loss) / norm(gain + loss)
            self.q[i] = self.q[i] - value(self.precond_lr, self.t) * step @ self.q[i]
        if None not in [None if q is None else 0 for q in self.q]:
            ratio = np.sqrt(np.abs(self.q[1]).max() / np.abs(self.q[0]).max())
            self.q = [self.q[0] * ratio, self.q[1] / ratio]

    def update(self, g, p):
        if self.q is None:
            self.start(g.shape)
        self.t += 1
        self.waited += 1
        b1 = value(self.b1, self.t)
        self.m, self.left_over = b1 * self.m + (1 - b1) * g, self.left_over * b1
        m = (self.m / (1 - self.left_over)).reshape(self.shape)
        if self.waited * value(self.probability, self.t) >= 1 - 1e-6:
            self.waited = 0
            source = m if self.from_momentum else g.reshape(self.shape)
            if source.any():
                self.learn(source)
        left, right = self.factors()
        u = (left.T @ left @ m @ right.T @ right).reshape(g.shape)
        u = u * min(1.0, float(quotient(1.1, np.sqrt((u * u).mean())) or 1.0))
        return -value(self.learning_rate, self.t) * (u + value(self.weight_decay, self.t) * p)
