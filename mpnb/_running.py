"""What this process exports now, so that nothing else writes to the same tables meanwhile."""

from __future__ import annotations

import threading

# Ids of exports whose batches are under way.
running: set[str] = set()
# Held while an export plans and enters itself into a ledger, and while typed tables are written.
registration = threading.Lock()
# Held for a moment from before the batches of an export are committed until it stands in ``running``, and by whoever
# compares the two: else it would take an export that starts for one whose process died.
entering = threading.Lock()
