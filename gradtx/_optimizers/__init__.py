"""The optimizers: one family a file, each body its chain."""
