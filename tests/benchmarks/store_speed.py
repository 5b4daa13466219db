"""Times of the results store on a large synthetic one: python tests/benchmarks/store_speed.py [evaluations] [outcomes]

Builds a store in a temporary folder and prints the median and the worst of several runs, in milliseconds. Nothing here
is a test: numbers depend on the machine and on what else it does.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from store import Mirror, Store, run_query
from store.results import append_outcomes, evaluation_rows, open_evaluation, outcome_schema

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from rows import batch, request

_FILL = """
INSERT INTO architectures
SELECT 'arch-' || i, 'resnet' || i, 'handcrafted', 'resnet', '{{}}', NULL, '', '', TIMESTAMP '2026-01-01'
FROM range(200) t(i);

INSERT INTO models BY NAME
SELECT sha256('' || i) AS model_sha256, 'arch-' || (i % 200) AS architecture_id, 'digits' AS trained_on,
    10 AS n_classes, 1000 + i AS params, 'trained' AS origin, '/weights' AS weights_path, 'model ' || i AS label,
    TIMESTAMP '2026-01-01' AS recorded_at
FROM range(2000) t(i);

INSERT INTO attacks SELECT attacks.* REPLACE ('a-' || i AS attack_id, i AS seed) FROM attacks, range(50) t(i);

INSERT INTO evaluations BY NAME
SELECT evaluations.* REPLACE (
    md5('' || i) AS evaluation_id, sha256('' || (i % 2000)) AS model_sha256,
    'arch-' || (i % 2000 % 200) AS architecture_id, 'a-' || (i // 2000) AS attack_id,
    'complete' AS status, 50 AS n_done, 50 AS n_counted, 45 AS n_clean_correct, i % 46 AS n_robust
)
FROM evaluations, range({evaluations}) t(i);
"""
_OUTCOMES = """
INSERT INTO outcomes BY NAME
SELECT o.* REPLACE (
    md5('' || (i // 50)) AS evaluation_id, (i % 50)::INTEGER AS example, (random() * 10)::REAL AS margin,
    random() AS distance
)
FROM (FROM outcomes LIMIT 1) AS o, range({start}, {stop}) t(i);
"""
_FILTER = """
FROM tradeoff WHERE architecture LIKE ? AND robust_accuracy > 50 ORDER BY robust_accuracy DESC LIMIT 1000
"""


def measure(name: str, action: Callable[[], object], *, runs: int = 7) -> None:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1000)
    print(f"{name:<64}{statistics.median(times):>9.1f}{max(times):>9.1f}")


def main(evaluations: int = 100_000, outcomes: int = 5_000_000) -> None:
    import duckdb

    print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}; milliseconds, median and worst of 7")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = Store(Path(folder) / "store.duckdb")
        store.ensure()
        print(f"{'create':<64}{(time.perf_counter() - start) * 1000:>9.1f}")
        open_evaluation(store, **request("seed", n_requested=10_000_000))
        append_outcomes(store, "seed", batch([0]), seconds=1)
        with store.write() as con:
            con.execute(_FILL.format(evaluations=evaluations))

        def enter_read() -> None:
            with store.read():
                pass

        def enter_write() -> None:
            with store.write():
                pass

        examples = iter(range(500, 100_000_000, 500))

        def append() -> None:
            first = next(examples)
            append_outcomes(
                store,
                "seed",
                template.set_column(0, schema_field, pa.array(range(first, first + 500), pa.int32())),
                seconds=1,
            )

        schema_field = outcome_schema().field("example")
        template = batch(range(500))
        measure("ensure, nothing to do", store.ensure)
        measure("open for reading and close", enter_read)
        measure("open for writing and close", enter_write)
        print(f"\n{evaluations} evaluations")
        mirrors = [Mirror(store) for _ in range(7)]
        fresh = iter(mirrors)
        measure("mirror: copy", lambda: next(fresh).refresh())
        mirror = mirrors[0]
        measure("mirror: filter and sort, 1000 rows, as a view", lambda: mirror.query(_FILTER, ["%9%"]))
        measure("mirror: all rows and columns, as a view", lambda: mirror.query("FROM tradeoff"))
        measure("mirror: make tradeoff a table", mirror.refresh, runs=1)
        measure("mirror: refresh when nothing changed", mirror.refresh)
        measure("mirror: filter and sort, 1000 rows, as a table", lambda: mirror.query(_FILTER, ["%9%"]))
        measure("mirror: all rows and columns, as a table", lambda: mirror.query("FROM tradeoff"))
        measure("one row of evaluation_rows", lambda: evaluation_rows(store, ["seed"]))
        measure("sql: group tradeoff", lambda: run_query(store, "SELECT source, count(*) FROM tradeoff GROUP BY ALL"))
        filled = 0
        for target in (50_000, outcomes):
            with store.write() as con:
                con.execute(_OUTCOMES.format(start=filled, stop=target))
            filled = target
            print(f"\n{filled} outcomes, {store.path.stat().st_size / 1e6:.0f} MB")
            measure("append 500 outcomes", append)
            measure(
                "open_evaluation, resuming", lambda: open_evaluation(store, **request("seed", n_requested=10_000_000))
            )
            measure(
                "sql: count outcomes by robust",
                lambda: run_query(store, "SELECT robust, count(*) FROM outcomes GROUP BY ALL"),
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
