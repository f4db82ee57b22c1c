"""A project to start from: what `keelmark init` infers from a table, and the files it writes.

Its modules need pyarrow, an extra: they are imported by the command when it runs.
"""
