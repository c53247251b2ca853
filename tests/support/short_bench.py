"""foldrank with a short bench, and quality on a quarter of the text: `python short_bench.py compress MODEL ...`. For
tests that ask of a `compress` whether all of it is there and fits together; what the bench measures is asked in
test_bench_speed. The graph proof is whole.

Also for a test process itself: `monkeypatch.setattr(bench, "QUICK", SHORT)`.
"""

from dataclasses import replace

from foldrank.benchmarks.workload import QUICK, Workload
from foldrank.verbs import bench, goal

SHORT = replace(QUICK, workloads=(Workload(16, 1, 4),), launches=1, reading_s=0.01)
"""One workload, its workers started once, its prompt read once a turn: as many engines, pairs and warm-ups as ever."""

if __name__ == "__main__":
    from foldrank.cli.main import main

    bench.QUICK = SHORT
    goal.MOST_TOKENS = 5_120  # type: ignore[misc]
    main()
