"""``python -m moodq_worker``: one worker process. Exit codes as in ``moodq --help``."""

from __future__ import annotations

import logging
import sys

from moodq_config.errors import MoodqError
from moodq_config.settings import load_settings
from moodq_worker.wiring import run_worker


def main() -> int:
    """Build the settings, run a worker; a MoodqError becomes one line on stderr."""
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        return run_worker(settings)
    except MoodqError as error:
        sys.stderr.write(f"moodq worker: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
