"""The demonstration: a corpus rendered by a speech synthesiser, through both stages."""
