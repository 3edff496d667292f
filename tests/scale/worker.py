"""``python -m tests.scale.worker``: ``moodq worker`` with an engine whose cost is slept.

``SCALE_COST`` is the JSON of its ``Cost``. Without it, the engine that the settings name.
"""

from __future__ import annotations

import json
import os
import sys

from moodq_worker import wiring
from moodq_worker.engine_fake import Cost, FakeEngine


def main() -> int:
    """Patch, then run a worker."""
    if slept := os.environ.get("SCALE_COST"):
        cost = Cost(**json.loads(slept))
        vars(wiring)["build_engine"] = lambda settings: FakeEngine(cost)
    from moodq_worker.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
