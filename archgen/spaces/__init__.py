"""The shipped search spaces, one file each: a Python module with `SPACE`, or a declaration in YAML."""
