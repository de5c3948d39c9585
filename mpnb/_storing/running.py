"""The exports that this process is running, so that no two write to the same table at once."""

from __future__ import annotations

import threading

from mpnb._base.fork import free_in_child, in_child

# Ids of exports whose batches are under way.
running: set[str] = set()
# Held while an export plans and enters itself into a ledger, and while typed tables are written.
registration = threading.Lock()
# Held from before the batches of an export are committed until it is in ``running``, and while the two are compared:
# otherwise, an export that is just starting would look like one whose process died.
entering = threading.Lock()
# A child runs none of its parent's exports.
free_in_child(registration)
free_in_child(entering)
in_child(running.clear)
