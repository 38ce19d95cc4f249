"""The stages: one idea a file, each equation written once, beside the code that computes it."""
