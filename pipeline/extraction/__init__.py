"""Stage one: the frozen encoders run once over a corpus and its captions, into the stores."""
