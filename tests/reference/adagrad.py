"""AdaGrad.

Duchi, Hazan & Singer, JMLR 12 (2011), Figure 1 with diagonal matrices: G_t = G_{t-1} + g_t^2, u = -lr g_t / sqrt(G_t).
The small number stands inside the root (`eps_in_sqrt`, TensorFlow and Optax) or is added to it (PyTorch; delta in the
paper's H_t = delta I + diag(s_t)).
"""

import numpy as np

from reference.arithmetic import quotient, value


class AdaGrad:
    def __init__(self, learning_rate, initial_accumulator_value=0.1, eps=1e-7, eps_in_sqrt=True):
        self.learning_rate, self.eps, self.eps_in_sqrt = learning_rate, eps, eps_in_sqrt
        self.t, self.total = 0, initial_accumulator_value

    def update(self, g, p=None):
        self.t += 1
        self.total = self.total + g * g
        root = np.sqrt(self.total + self.eps) if self.eps_in_sqrt else np.sqrt(self.total) + self.eps
        return -value(self.learning_rate, self.t) * quotient(g, root)
