"""Run ``python -m mpnb`` as the command ``mpnb``."""

from mpnb._command.cli import run

run()
