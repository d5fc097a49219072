"""Experiments over both stages: comparison, cross-validation, sweeps, and the demo."""
