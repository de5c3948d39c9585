"""What this process exports now, so that nothing else writes to the same tables meanwhile."""

from __future__ import annotations

import threading

# Ids of exports whose batches are under way.
running: set[str] = set()
# Held while an export plans and enters itself into a ledger, and while typed tables are written.
registration = threading.Lock()
