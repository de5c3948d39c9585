"""Run ``python -m mpnb`` as the command ``mpnb``."""

from mpnb._cli import run

run()
