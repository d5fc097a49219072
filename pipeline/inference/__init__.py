"""Trained heads in use: the model, search, export, and the search page."""
