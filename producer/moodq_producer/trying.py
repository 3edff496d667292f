"""One text by one task through running workers: what ``moodq tasks try --queue`` runs."""

from __future__ import annotations

import click

from moodq_config.contracts import RequestItem, Result
from moodq_config.settings import Settings
from moodq_config.tasks import TaskSet
from moodq_producer.client import Client


def try_on_queue(settings: Settings, tasks: TaskSet, item: RequestItem, timeout_s: float) -> Result:
    """Send ``item`` on the first queue and wait for its result. Raises ``Unavailable``, ``QueueFull`` and
    ``WaitTimeout``."""
    with Client(settings) as client:
        if not client.workers_alive():
            click.echo("moodq: no worker is alive; waiting for one (`moodq worker`)", err=True)
        [ticket] = client.submit_many([item], item.tasks, queue=settings.queues[0], chunk=1)
        return ticket.wait(timeout_s)
