"""The commands that take no run: one function each, a few lines that call a package.

Signature, or a dataclass of flags, and docstring are a command's --help. Heavy imports stay inside the functions, so
that it answers at once.
"""
