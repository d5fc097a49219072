"""A sweep: many configurations trained side by side, those that do badly stopped early (docs/sweeps.md)."""
