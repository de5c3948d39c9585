"""The sandbox answers as the export API does."""

from __future__ import annotations

import gzip
from datetime import date

import httpx

from mpnb.sandbox import serve


def test_a_week_is_served_whole_and_as_the_oracle_says() -> None:
    """What is served for a range is the lines of its days, in order, and count() tells how many."""
    with serve(today=date(2026, 2, 1), events_per_day=200) as mp, httpx.Client(trust_env=False) as client:
        params = {"from_date": "2026-01-01", "to_date": "2026-01-07", "project_id": mp.project_id}
        auth = (mp.credentials.username, mp.credentials.secret)
        with client.stream("GET", f"{mp.url}/api/2.0/export", params=params, auth=auth) as answer:
            body = gzip.decompress(b"".join(answer.iter_raw()))
        days = [date(2026, 1, n) for n in range(1, 8)]
        assert body == b"".join(line + b"\n" for day in days for line in mp.lines(day))
        assert body.count(b"\n") == mp.count(days[0], days[-1])
