"""``mpnb sync``: every table that one file names, with one line for each and one status for all."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from mpnb._sync import sync

EXAMPLES = """\
examples:
  mpnb sync mpnb.toml
  mpnb sync mpnb.toml --wait 10m --json

The file, for cron and the like:

  database = "mixpanel.duckdb"

  [projects.shop]
  project_id = "1234567"
  region = "eu"
  username_env = "SHOP_USERNAME"
  secret_env = "SHOP_SECRET"

  [[events]]
  project = "shop"
  days = "last 30 days"

  [[profiles]]
  project = "shop"

Exit status: 0 every table is up to date, 1 some are not, 2 wrong arguments or
the file says what cannot be, 75 another process has a database open or runs
the same sync, 130 interrupted, 143 terminated."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mpnb sync``."""
    parser.add_argument("file", metavar="FILE", help="a TOML file that names the tables")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def run(options: argparse.Namespace) -> int:
    """Run it, and return its exit status."""
    done = sync(
        options.file, wait=options.wait, on_table=None if options.json else lambda each: print(each, flush=True)
    )
    if options.json:
        print(json.dumps([asdict(each) for each in done.tables], ensure_ascii=False))
    statuses = {each.status for each in done.tables} - {"done"}
    return 75 if statuses == {"busy"} else int(bool(statuses))
