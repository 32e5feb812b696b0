"""The Python side of csrc: shapes for tracing, derivatives, and adapters to the ops' arguments."""
