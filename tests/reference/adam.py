r"""Adam, with either form of weight decay.

Kingma & Ba, arXiv:1412.6980, Algorithm 1: m_t = b1 m_{t-1} + (1-b1) g_t, v_t = b2 v_{t-1} + (1-b2) g_t^2,
m^ = m_t / (1 - b1^t), v^ = v_t / (1 - b2^t), u = -lr m^ / (sqrt(v^) + eps). For decays that vary, b^t is prod_i b_i.
`nesterov`: Dozat, "Incorporating Nesterov Momentum into Adam" (2016), Algorithm 2 with a constant mu:
m^ = b1 m_t / (1 - b1^{t+1}) + (1-b1) g_t / (1 - b1^t).

Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101: Algorithm 2 with the box around line 6
(L2: g_t = grad + wd p, `AdamL2`) or around line 12 (`AdamW`): u = -eta_t (alpha m^ / (sqrt(v^) + eps) + wd p).
With `schedule=None` the decay is multiplied by the learning rate, as PyTorch and Optax do: eta_t = lr, alpha = 1.
"""

import numpy as np

from reference.arithmetic import quotient, value


class Adam:
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, nesterov=False):
        self.learning_rate, self.b1, self.b2 = learning_rate, b1, b2
        self.eps, self.eps_root, self.nesterov = eps, eps_root, nesterov
        self.t, self.m, self.v, self.left1, self.left2 = 0, 0.0, 0.0, 1.0, 1.0

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * (g * g)
        self.left1, self.left2 = self.left1 * b1, self.left2 * b2
        m_hat = self.m / (1 - self.left1)
        if self.nesterov:
            m_hat = b1 * self.m / (1 - self.left1 * b1) + (1 - b1) * g / (1 - self.left1)
        v_hat = self.v / (1 - self.left2)
        return quotient(m_hat, np.sqrt(v_hat + self.eps_root) + self.eps)

    def update(self, g, p=None):
        return -value(self.learning_rate, self.t + 1) * self.direction(g)


class AdamW(Adam):
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, *, weight_decay=1e-4, nesterov=False,
                 schedule=None):  # fmt: skip
        super().__init__(learning_rate, b1, b2, eps, eps_root, nesterov)
        self.weight_decay, self.schedule = weight_decay, schedule

    def update(self, g, p):
        lr, decay = value(self.learning_rate, self.t + 1), value(self.weight_decay, self.t + 1) * p
        if self.schedule is None:
            return -lr * (self.direction(g) + decay)
        eta = value(self.schedule, self.t + 1)
        return -eta * (lr * self.direction(g) + decay)


class AdamL2(Adam):
    def __init__(self, learning_rate, l2, **adam):
        super().__init__(learning_rate, **adam)
        self.l2 = l2

    def update(self, g, p):
        return super().update(g + self.l2 * p, p)


class AMSGrad(Adam):
    """Reddi, Kale & Kumar (ICLR 2018), Algorithm 2: v~_t = max(v~_{t-1}, v_t), of corrected moments or of raw ones."""

    largest = 0.0

    def __init__(self, learning_rate, *, bias_correction_mu=True, bias_correction_nu=True, **adam):
        super().__init__(learning_rate, **adam)
        self.correct_mu, self.correct_nu = bias_correction_mu, bias_correction_nu

    def direction(self, g):
        self.t += 1
        b1, b2 = value(self.b1, self.t), value(self.b2, self.t)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * (g * g)
        self.left1, self.left2 = self.left1 * b1, self.left2 * b2
        self.largest = np.maximum(self.largest, self.v / (1 - self.left2) if self.correct_nu else self.v)
        m = self.m / (1 - self.left1) if self.correct_mu else self.m
        return quotient(m, np.sqrt(self.largest + self.eps_root) + self.eps)


class NAdam(Adam):
    def __init__(self, learning_rate, nesterov=True, **rest):
        super().__init__(learning_rate, nesterov=nesterov, **rest)


class NAdamW(AdamW):
    def __init__(self, learning_rate, nesterov=True, **rest):
        super().__init__(learning_rate, nesterov=nesterov, **rest)
