r"""Muon, with AdamW for what is no matrix.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): X_0 = M / (||M||_F + eps),
X <- a X + b (X X^T) X + c (X X^T)^2 X, here evaluated on the singular values: with X = U S V^T each step maps
s to a s + b s^3 + c s^5, so the result is U f(s) V^T. The momentum is an exponential moving average with Adam's bias
correction, and with `nesterov` Dozat's look ahead. Scale: sqrt(max(1, columns / rows)); or Liu et al.,
arXiv:2502.16982, section 2.2: consistent_rms sqrt(max(rows, columns)).
`adaptive`: Bernstein & Newhouse, arXiv:2409.20325: times <M, O>.
`preconditioning`: "spectral": M / (s_max + eps); "schatten" (arXiv:2506.10935): M / max(||M M^T||_F, eps)^(1/2);
"aol" (arXiv:2512.04632): the rows of the shorter side divided by max(sum_j |M M^T|_ij, eps)^(1/2).
"""

import numpy as np

from reference.adam import AdamW
from reference.arithmetic import quotient, value

STANDARD = [(3.4445, -4.7750, 2.0315)]
DION = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


class Muon:
    def __init__(self, learning_rate, ns_coeffs="standard", ns_steps=5, beta=0.95, eps=1e-8, weight_decay=0.0, *,
                 nesterov=True, adaptive=False, preconditioning="frobenius", adam_b1=0.9, adam_b2=0.999,
                 adam_eps_root=0.0, adam_weight_decay=0.0, adam_learning_rate=None, muon_weight_dimension_numbers=None,
                 consistent_rms=None, adam_paths=()):  # fmt: skip
        self.learning_rate, self.beta, self.eps, self.weight_decay = learning_rate, beta, eps, weight_decay
        self.coefficients = DION if ns_coeffs == "dion" else STANDARD * ns_steps
        self.nesterov, self.adaptive, self.preconditioning = nesterov, adaptive, preconditioning
        self.consistent_rms = consistent_rms
        self.only_adam = muon_weight_dimension_numbers is not None
        rate = learning_rate if adam_learning_rate is None else adam_learning_rate
        self.adam = AdamW(rate, adam_b1, adam_b2, eps, adam_eps_root, weight_decay=adam_weight_decay, nesterov=nesterov)
        self.t, self.m = 0, 0.0

    def start(self, m):
        if self.preconditioning == "frobenius":
            return quotient(m, np.sqrt((m * m).sum()) + self.eps)
        if self.preconditioning == "spectral":
            return quotient(m, np.linalg.norm(m, 2) + self.eps)
        if self.preconditioning == "schatten":
            return quotient(m, np.sqrt(max(np.linalg.norm(m @ m.T), self.eps)))
        wide = m if m.shape[0] <= m.shape[1] else m.T
        wide = quotient(wide, np.sqrt(np.maximum(np.abs(wide @ wide.T).sum(1, keepdims=True), self.eps)))
        return wide if m.shape[0] <= m.shape[1] else wide.T

    def orthogonal(self, m):
        u, s, v = np.linalg.svd(self.start(m), full_matrices=False)
        for a, b, c in self.coefficients:
            s = a * s + b * s**3 + c * s**5
        return (u * s) @ v

    def update(self, g, p):
        if g.ndim != 2 or self.only_adam:
            return self.adam.update(g, p)
        self.t += 1
        b = value(self.beta, self.t)
        self.m = b * self.m + (1 - b) * g
        m = self.m / (1 - b**self.t)
        if self.nesterov:
            m = b * self.m / (1 - b ** (self.t + 1)) + (1 - b) * g / (1 - b**self.t)
        o = self.orthogonal(m)
        if self.adaptive:
            o = (m * o).sum() * o
        rows, columns = g.shape
        scale = max(1, columns / rows) ** 0.5
        if self.consistent_rms is not None:
            scale = self.consistent_rms * max(rows, columns) ** 0.5
        return -value(self.learning_rate, self.t) * (scale * o + self.weight_decay * p)
