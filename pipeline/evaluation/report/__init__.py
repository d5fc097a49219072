"""What an evaluation or a comparison found, as one HTML file for people: no network, no other file, safe to mail."""

from __future__ import annotations
