"""The commands: glue around the Python functions of the same name. `--help` imports neither torch nor transformers."""
