"""
A seeded campaign against nearly everything that can go wrong around an export.

    python -m tests.campaign wire --runs 100 --seed 0
    python -m tests.campaign wire --first 17 --runs 1 --seed 0

Each run draws days, data, settings and what breaks, exports for real over loopback in several steps, and asks the one
oracle after each: whole or absent, never in between, and nothing stuck. A run draws the same again; threads still race.

The parts: faults on the ``wire``; ``proxies`` and their settings; exports ``beside`` each other; ``surroundings`` such
as a full disk or a clock that is set; the nth ``io`` that fails; ``kills``; and ``images`` of a crash. What each does
is in the module of its name.
"""
