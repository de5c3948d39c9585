"""
A seeded campaign against nearly everything that can go wrong on the wire and to the process.

    python -m tests.campaign --runs 100 --seed 0
    python -m tests.campaign --kills 50 --seed 0

Each run draws days, data, workers, chunk sizes and faults, exports for real over loopback in several steps, and asks
the oracle after each one: whole or absent, never in between. A seed makes the same draws again; threads still race.
"""
