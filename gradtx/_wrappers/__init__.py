"""Transformations around others: which steps are taken, and on what."""
