"""Entry point of ``python -m mpnb``, the same as the command ``mpnb``."""

from mpnb._command.cli import run

run()
