"""The page of `search-speech --serve`: search in a browser on this machine, listen, and see hits in the plane."""
