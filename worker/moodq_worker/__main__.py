"""``python -m moodq_worker``: a worker, or a parent of several. Exit codes as in ``moodq worker --help``."""

from __future__ import annotations

import logging
import sys

from moodq_config.errors import MoodqError
from moodq_config.logs import configure_logs
from moodq_config.names import WORKER_SERVICE
from moodq_config.printable import printable
from moodq_config.settings import load_settings
from moodq_worker.cores import shares
from moodq_worker.supervisor import Supervisor

log = logging.getLogger(__name__)


def main(processes: str | None = None) -> int:
    """Build the settings (``processes`` stands for MOODQ_PROCESSES), run the worker or workers; a MoodqError
    becomes one line on stderr."""
    try:
        settings = load_settings(**({} if processes is None else {"processes": processes}))
        configure_logs(settings, WORKER_SERVICE)
        if settings.processes != 1 and len(parts := shares(settings)) > 1:
            return Supervisor(settings, parts).run()
        from moodq_worker.wiring import run_worker

        return run_worker(settings)
    except MoodqError as error:
        sys.stderr.write(printable(f"moodq worker: {error}") + "\n")
        return error.exit_code
    except Exception:
        # Python's own report would show the words of any error as they are.
        log.critical("the worker ends: an error nobody foresaw", exc_info=True)
        return MoodqError.exit_code


if __name__ == "__main__":
    sys.exit(main())
