"""A training step compiled for machines that are not there, and what its program says."""
