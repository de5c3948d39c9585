"""What a user may get wrong: a checker sees each of these, and an ignore that is not needed is an error itself."""

from __future__ import annotations

import mpnb

mpnb.export()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mpnb.export("2026-01-01")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mpnb.start("2026-01-01", "2026-01-02", wrkers=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mpnb.plan("2026-01-01", "2026-01-02", chunk_days="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
mpnb.export("2026-01-01", "2026-01-02", mode="append")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
mpnb.open(tabel="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
mpnb.drop()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
result = mpnb.open()
result.retry(wrkers=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
result.retry(quota=120)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
result.start_retry(on_batch=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
result.df("x", colums=["a"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
result.pl(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
result.pl("x", materialise=False)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
result.to_parquet("x", partition="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
print(result.evnts)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
mpnb.Quota(per_day=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
