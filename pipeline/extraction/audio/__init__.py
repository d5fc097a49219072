"""Audio: decoding, what a file's container promises, and Praat's measurements."""
