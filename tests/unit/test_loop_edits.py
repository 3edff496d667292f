"""What an edit leaves behind in the engine is forgotten when the last item that needs it has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from moodq_config.contracts import RequestItem
from moodq_config.tasks import TaskSet, load_tasks
from moodq_worker.engine_fake import FakeEngine
from moodq_worker.items import Clock, Item, Job
from moodq_worker.loop import Loop
from moodq_worker.metrics import Metrics


class Counting(FakeEngine):
    retired = 0

    def retire_tasks(self) -> None:
        self.retired += 1


def job_of(tasks: TaskSet) -> Job:
    """A job of one text, read by ``tasks``."""
    claim: Any = SimpleNamespace(
        queue=SimpleNamespace(name="interactive"), execution=SimpleNamespace(id="run-1"), job=None
    )
    job = Job(claim, open=1)
    request = RequestItem(id="a", text="fine", tasks=("sentiment",))
    item = Item(job, "a", queue="interactive", clock=Clock(0.0, 0.0), request=request, tokens=[1, 2])
    item.plan(tasks)
    job.items.append(item)
    return job


def test_an_item_read_before_an_edit_that_comes_after_it_leaves_nothing_behind() -> None:
    engine, before = Counting(), load_tasks()
    engine.use_tasks(before)
    loop = Loop(
        engine,
        before,
        Metrics(),
        queues=["interactive"],
        batch_tokens=64,
        bulk_share=0.25,
        weights={},
        max_replies=1,
        max_wait_s=0.0,
    )
    delivered: list[Item] = []
    loop.delivery = SimpleNamespace(deliver=delivered.extend, publish=lambda *_: None)  # type: ignore[assignment]

    loop.use_tasks(TaskSet({name: before[name] for name in before if name != "reply"}))
    loop._turn()
    assert engine.retired == 1
    late = job_of(before)
    loop.accept(late)
    loop._turn()
    assert [item.id for item in delivered] == ["a"]
    assert engine.retired == 1, "it is in hand"
    loop.finished(late)
    loop._turn()
    assert engine.retired == 2
