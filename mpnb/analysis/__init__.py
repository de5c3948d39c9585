"""
Mixpanel's reports in SQL, over any relation of events: funnels, retention, segmentation, flows and more.

    events = result.event(["Sign Up", "Purchase"], deduplicated=True)
    mpnb.analysis.funnel(events, ["Sign Up", "Purchase"], timedelta(days=7))

Each counts as Mixpanel's own report of that name does, with its defaults, so that the numbers can be compared; where a
rule is not followed, its docstring says so. Rules are from Mixpanel's documentation, which each docstring names.

``events`` is a relation with the columns ``event_name``, ``time`` and ``distinct_id``: ``result.events``,
``result.deduplicated()`` or ``result.event([…])``, filtered as needed. If it has the columns ``person`` and
``local_time``, they are who did it and what days are taken from. The functions return relations too, which run at each
read; their ``.df()`` can be plotted. A notebook shows those of ``funnel()``, ``retention()``, ``segmentation()``,
``sessions()``, ``flows()`` and ``lifecycle()`` as pictures; ``picture(relation)`` returns one anywhere, and
``chart(relation)`` a Vega-Lite specification. Rows of nobody, whose user is null or empty, are left out, except for the
events of a segmentation.

Mixpanel's days are those of the project's time zone: pass ``zone=`` to compare. Without, days are in UTC, and a report
that counts by days says so if ``events`` comes unchanged from a result.

An event name that does not occur in ``events`` counts as zero, with a warning that suggests the closest name. If
``events`` comes unchanged from a result and the name does not occur in the whole table either, it is an error, as for
``result.event()``.

Rows with an implausible ``time`` are left out: null, or more than a day outside the days of the result that ``events``
comes from; for any other relation, before 1970 or after 2099. ``result.check()`` counts them.
"""

from __future__ import annotations

from mpnb._base.pictures import Picture
from mpnb.analysis._charts import Chart, chart
from mpnb.analysis._flows import flows
from mpnb.analysis._funnel import funnel
from mpnb.analysis._lifecycle import lifecycle
from mpnb.analysis._people import features, first_touch
from mpnb.analysis._pictures import picture
from mpnb.analysis._retention import retention
from mpnb.analysis._segmentation import segmentation
from mpnb.analysis._sessions import sessions

__all__ = [
    "Chart",
    "Picture",
    "chart",
    "features",
    "first_touch",
    "flows",
    "funnel",
    "lifecycle",
    "picture",
    "retention",
    "segmentation",
    "sessions",
]
