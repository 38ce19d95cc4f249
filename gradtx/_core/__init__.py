"""The machine under every transform: specs, hyperparameters, signals, slots, leaf programs."""
