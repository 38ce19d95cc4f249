r"""SOAP, with AdamW for what is no matrix.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, Algorithm 3, with Adam's bias
correction and epsilon: G' = Q_L^T G Q_R, M = b1 M + (1-b1) G, M' = Q_L^T M Q_R, V = b2 V + (1-b2) G'^2,
N' = M^' / (sqrt(V^) + eps), N = Q_L N' Q_R^T, u = -lr (N + wd p); then L = beta L + (1-beta) G G^T, R likewise with G^T G.
Bases: the identity at first, the eigenvectors of L and R in falling order after the first step; after each f-th step
Algorithm 4, Q = QR(L Q), the columns sorted by diag(Q^T L Q) before, as in the authors' implementation, and put back into
their places, where that implementation moves V. QR by Gram and Schmidt, whose signs differ from Householder's.
In the rotated basis nothing is beyond the largest float32 that has a square, as nothing is that is averaged.
"""

import numpy as np

from reference.adam import AdamW
from reference.arithmetic import quotient, value

LARGEST = 1.8446742e19


class SOAP:
    def __init__(self, learning_rate=3e-3, b1=0.95, b2=0.95, shampoo_beta=None, eps=1e-8, weight_decay=0.01,
                 precondition_frequency=10, max_precond_dim=10_000, *, dimension_numbers=None, adam_paths=(),
                 precondition_1d=False, merge_dims=False):  # of a matrix that is not merged  # fmt: skip
        self.learning_rate, self.b1, self.b2, self.eps = learning_rate, b1, b2, eps
        self.beta = b2 if shampoo_beta is None else shampoo_beta
        self.weight_decay, self.every, self.max_dim = weight_decay, precondition_frequency, max_precond_dim
        self.only_adam = dimension_numbers is not None
        self.adam = AdamW(learning_rate, b1, b2, eps, weight_decay=weight_decay)
        self.t, self.m, self.v = 0, 0.0, 0.0
        self.factors, self.bases = [0.0, 0.0], None

    def renew(self, factor, basis):
        n = len(factor)
        if not 1 < n <= self.max_dim:
            return np.eye(n)
        if self.t == 1:
            return np.linalg.eigh(factor)[1][:, ::-1]
        order = np.argsort(-np.diag(basis.T @ factor @ basis))
        q = np.zeros((n, n))
        for i in order:
            x = factor @ basis[:, i]
            for _ in range(2):
                x = x - q @ (q.T @ x)
            q[:, i] = x / np.linalg.norm(x)
        return q

    def update(self, g, p):
        if g.ndim != 2 or self.only_adam:
            return self.adam.update(g, p)
        if self.t == 0:
            self.bases = [np.eye(n) for n in g.shape]
        elif self.t == 1 or self.t % self.every == 0:
            self.bases = [self.renew(f, q) for f, q in zip(self.factors, self.bases)]
        left, right = self.bases
        self.t += 1

        def rotated(x):
            return np.clip(left.T @ x @ right, -LARGEST, LARGEST)

        b1, b2, beta = (value(b, self.t) for b in (self.b1, self.b2, self.beta))
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * rotated(g) ** 2
        m, v = rotated(self.m / (1 - b1**self.t)), self.v / (1 - b2**self.t)
        n = left @ quotient(m, np.sqrt(v) + self.eps) @ right.T
        self.factors = [beta * f + (1 - beta) * x for f, x in zip(self.factors, (g @ g.T, g.T @ g))]
        return -value(self.learning_rate, self.t) * (n + self.weight_decay * p)
