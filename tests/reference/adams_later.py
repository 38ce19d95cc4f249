r"""Adam's later relatives, and caution around AdamW.

Products of decays stand for b^t, so that decays may vary. `g` before the first step is the first gradient.
"""

import numpy as np

from reference.adam import Adam, AdamW
from reference.arithmetic import quotient, value


class AdEMAMix(AdamW):
    """arXiv:2409.03137, Algorithm 1: the numerator is m1 / (1 - b1^t) + alpha m2, with m2 an average at b3, uncorrected."""

    def __init__(self, learning_rate, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, eps_root=0.0, weight_decay=0.0):
        super().__init__(learning_rate, b1, b2, eps, eps_root, weight_decay=weight_decay)
        self.b3, self.alpha, self.slow = b3, alpha, 0.0

    def direction(self, g):
        fast = super().direction(g)
        b3, alpha = value(self.b3, self.t), value(self.alpha, self.t)
        self.slow = b3 * self.slow + (1 - b3) * g
        root = np.sqrt(self.v / (1 - self.left2) + self.eps_root) + self.eps
        return fast + quotient(alpha * self.slow, root)


class ADOPT:
    """arXiv:2411.02853, Algorithm 2: v_0 = g_0^2; m_t = b1 m + (1-b1) clip(g_t / max(sqrt(v_{t-1}), eps), c_t), then v_t.

    The limit c_t of the authors' code is the fourth root of the number of completed steps.
    """

    def __init__(self, learning_rate, b1=0.9, b2=0.9999, eps=1e-6, nesterov=False, use_clipping=True,
                 clip_value_fn=lambda count: count**0.25):  # fmt: skip
        self.learning_rate, self.b1, self.b2, self.eps = learning_rate, b1, b2, eps
        self.nesterov, self.use_clipping, self.clip_value_fn = nesterov, use_clipping, clip_value_fn
        self.t, self.m, self.v = 0, 0.0, 0.0

    def update(self, g, p=None):
        self.t += 1
        if self.t == 1:
            self.v = g * g
            return 0 * g
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        x = quotient(g, np.maximum(np.sqrt(self.v), self.eps))
        if self.use_clipping:
            limit = np.asarray(value(self.clip_value_fn, self.t), np.float64)
            x = np.clip(x, -limit, limit)
        self.m = b1 * self.m + (1 - b1) * x
        self.v = b2 * self.v + (1 - b2) * (g * g)
        ahead = b1 * self.m + (1 - b1) * x if self.nesterov else self.m
        return -value(self.learning_rate, self.t) * ahead


class Adan:
    """arXiv:2208.06677, Algorithm 1, with b = 1 - beta, moments corrected, and the decay added as in AdamW.

    The look-ahead gradient is limited to what float32 can square, as the gradient is for all of Adam's relatives.
    """

    LARGEST = 1.8446742e19

    def __init__(self, learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0):
        self.learning_rate, self.b, self.eps, self.eps_root = learning_rate, (b1, b2, b3), eps, eps_root
        self.weight_decay, self.t, self.last = weight_decay, 0, None
        self.averages, self.left = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]

    def update(self, g, p):
        self.t += 1
        change = 0 * g if self.last is None else g - self.last
        self.last = g
        b = [value(b, self.t) for b in self.b]
        ahead = np.clip(g + b[1] * change, -self.LARGEST, self.LARGEST)
        inputs = (g, change, ahead * ahead)
        self.averages = [x * a + (1 - x) * i for x, a, i in zip(b, self.averages, inputs)]
        self.left = [x * w for x, w in zip(b, self.left)]
        m, v, n = (a / (1 - w) for a, w in zip(self.averages, self.left))
        direction = quotient(m + b[1] * v, np.sqrt(n + self.eps_root) + self.eps)
        return -value(self.learning_rate, self.t) * (direction + value(self.weight_decay, self.t) * p)


class OptimisticAdam(Adam):
    """arXiv:1711.00141, Algorithm 1, generalized: -lr (alpha r_t + beta (r_t - r_{t-1})) of Adam's direction r."""

    def __init__(self, learning_rate, alpha=1.0, beta=1.0, nesterov=True, **adam):
        super().__init__(learning_rate, nesterov=nesterov, **adam)
        self.alpha, self.beta, self.last = alpha, beta, None

    def update(self, g, p=None):
        r = self.direction(g)
        last, self.last = r if self.last is None else self.last, r
        alpha, beta = value(self.alpha, self.t), value(self.beta, self.t)
        return -value(self.learning_rate, self.t) * (alpha * r + beta * (r - last))


class StableAdamW(AdamW):
    """arXiv:2304.13013, Algorithm 2: RMS = sqrt(mean(g^2 / max(v^, eps^2))); the rate is lr / max(1, RMS)."""

    def update(self, g, p):
        u = super().update(g, p)
        v_hat = self.v / (1 - self.left2)
        rms = np.sqrt(np.mean(quotient(g * g, np.maximum(v_hat, self.eps**2))))
        return u / max(1.0, rms)


class MARS(AdamW):
    """arXiv:2411.10438, Algorithm 2: c = g + gamma b1 / (1-b1) (g - g_last), clipped to a norm of 1, is AdamW's gradient."""

    def __init__(self, learning_rate, b1=0.95, b2=0.99, eps=1e-8, eps_root=0.0, *, weight_decay=0.0, gamma=0.025,
                 max_norm=1.0):  # fmt: skip
        super().__init__(learning_rate, b1, b2, eps, eps_root, weight_decay=weight_decay)
        self.gamma, self.max_norm, self.last = gamma, max_norm, None

    def update(self, g, p):
        last, self.last = g if self.last is None else self.last, g
        b1 = value(self.b1, self.t + 1)
        c = g + value(self.gamma, self.t + 1) * b1 / (1 - b1) * (g - last)
        norm, limit = np.linalg.norm(c), value(self.max_norm, self.t + 1)
        return super().update(c if norm <= limit else c * (limit / norm), p)


class CautiousAdamW(Adam):
    """arXiv:2411.16085, Algorithm 1 with the scale of the authors' code: 1 / max(mean(mask), 1e-3); decay outside."""

    def __init__(self, learning_rate, weight_decay, **adam):
        super().__init__(learning_rate, **adam)
        self.weight_decay = weight_decay

    def update(self, g, p):
        u = self.direction(g)
        mask = np.sign(u) * np.sign(g) > 0
        u = u * mask / max(mask.mean(), 1e-3)
        return -value(self.learning_rate, self.t) * (u + value(self.weight_decay, self.t) * p)


class AdamWCautiousDecay(CautiousAdamW):
    """arXiv:2510.12402, Algorithm 1: -lr (u + wd [u p >= 0] p)."""

    def update(self, g, p):
        u = self.direction(g)
        decay = value(self.weight_decay, self.t) * p * (np.sign(u) * np.sign(p) >= 0)
        return -value(self.learning_rate, self.t) * (u + decay)
