"""foldrank with a short bench: `python short_bench.py compress MODEL ...`. For tests that ask of a `compress`
whether all of it is there and fits together; what the bench measures is asked in test_bench_speed.

Also for a test process itself: `monkeypatch.setattr(bench, "QUICK", SHORT)`.
"""

from dataclasses import replace

from foldrank.benchmarks.workload import QUICK, Workload
from foldrank.verbs import bench

SHORT = replace(QUICK, workloads=(Workload(16, 1, 4),), launches=1)
"""One workload, its workers started once: as many engines, pairs and warm-ups as ever."""

if __name__ == "__main__":
    from foldrank.cli.main import main

    bench.QUICK = SHORT
    main()
