"""The losses: pure functions of similarities and labels."""
