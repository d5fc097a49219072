"""The page of `search-speech`: a search on this machine, asked in a browser, heard and seen in the plane."""

from __future__ import annotations
