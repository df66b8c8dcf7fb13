"""The kinds of `--source KIND:PATHS`, one file each."""
