"""A worker without a model, run as a script: `fake_worker.py SECONDS SEED`.

With a seed it sleeps not at all and tells SECONDS with 2 % of noise; without one it sleeps and measures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

SECONDS = float(sys.argv[1])
NOISE = random.Random(int(sys.argv[2])) if len(sys.argv) > 2 else None


def spend() -> float:
    """Seconds, slept and measured or made up."""
    if NOISE is not None:
        return SECONDS * NOISE.gauss(1.0, 0.02)
    start = time.perf_counter()
    time.sleep(SECONDS)
    return time.perf_counter() - start


for line in sys.stdin:
    command = json.loads(line)
    match command["do"]:
        case "sample":
            answer = {"prepare_s": 0.0, "ttft_s": (elapsed := spend()), "tpot_s": elapsed}
        case "begin":
            answer = {"prepare_s": 0.0, "ttft_s": spend()}
        case "steps":
            answer = {"steps_s": [spend() for _ in range(command["count"])]}
        case "die":
            sys.exit("the disk of memories is full")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(60)
        case "fail":
            reason = {"where": "provider x", "what": "is gone", "remedy": "wait"}
            answer = {"error": reason, "unavailable": command["gone"]}
        case _:
            answer = {"echo": command}
    print(json.dumps(answer), flush=True)
