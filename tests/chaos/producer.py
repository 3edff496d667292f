"""``python -m tests.chaos.producer URL ID…``: a producer that dies between sending jobs and hearing of it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from moodq_config.settings import load_settings
from moodq_producer import Client

from .traffic import text_of


def main() -> None:
    """Send one job per id, alone, and die with the server's answer unread."""
    url, *ids = sys.argv[1:]
    with Client(load_settings(redis_url=url, max_attempts=1)) as client:
        real: Any = client._send

        def send_and_die(jobs: Any) -> None:
            for job in jobs[:-1]:
                real([job])
            pool = client._redis.connection_pool
            connection = pool.get_connection()
            args = client._maker.gate.script_args(jobs[-1])
            keys = jobs[-1].keys
            connection.send_command("EVAL", client._script.script, len(keys), *keys, *args)
            connection.can_read(timeout=5)  # the server has answered; nobody reads it
            os.kill(os.getpid(), signal.SIGKILL)

        vars(client)["_send"] = send_and_die
        if len(ids) > 1:
            for id in ids[:-1]:
                client._redis.ping()
                real([client._maker.job([client.check(text_of(id), id=id)], "interactive", client._redis)])
        client.submit(text_of(ids[-1]), id=ids[-1])


if __name__ == "__main__":
    main()
