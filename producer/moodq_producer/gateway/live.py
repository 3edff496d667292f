"""What is there and how it goes: tasks, the live view, health, metrics."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from moodq_config.contracts import ModelRef
from moodq_config.errors import ErrorCode, Unavailable
from moodq_config.task_kinds import ScoreTask, Task
from moodq_producer.gateway.access import admit
from moodq_producer.gateway.items import PROBLEMS, Shared
from moodq_producer.gateway.latency import LatencyShown
from moodq_producer.gateway.problems import Problem

router = APIRouter(dependencies=[Depends(admit)], tags=["live"])
health = APIRouter(tags=["health"])


class TaskShown(BaseModel):
    """A task an item may name. ``labels``: what it can answer, in the task's order; empty where it writes
    text, or where the request brings them. ``needs``: the field an item must bring, beside its text."""

    name: str = Field(examples=["sentiment"])
    kind: str = Field(examples=["label"])
    title: str = Field(examples=["Is the writer pleased or displeased?"])
    labels: list[str] = Field(examples=[["positive", "negative"]])
    needs: str | None = None
    after: str | None = None
    revision: str


class Tasks(BaseModel):
    tasks: list[TaskShown]


class QueueShown(BaseModel):
    """Jobs that wait, and the age of the first of them; null when none does. ``latency_s`` is null when no
    text of it has ended in the last minute."""

    name: str
    length: int
    oldest_age_s: float | None
    latency_s: LatencyShown | None


class Status(BaseModel):
    """The live view. ``items_per_s`` (a text with two tasks counts as two) and ``labels`` (counts since each
    worker started) are the sums over the living workers; ``model`` is that of the first of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "workers": 1,
                    "queues": [
                        {
                            "name": "interactive",
                            "length": 3,
                            "oldest_age_s": 0.42,
                            "latency_s": {"p50": 0.06, "p95": 0.14},
                        }
                    ],
                    "items_per_s": 12.5,
                    "labels": {"sentiment": {"positive": 210, "negative": 97}},
                    "model": {"id": "qwen2.5-coder-0.5b-instruct", "revision": "1", "precision": "bf16"},
                }
            ]
        }
    )

    workers: int
    queues: list[QueueShown]
    items_per_s: float
    labels: dict[str, dict[str, int]]
    model: ModelRef | None


@router.get("/v1/tasks", summary="The tasks an item may name", responses=PROBLEMS)
async def tasks(services: Shared) -> Tasks:
    """A saved change of the tasks file is seen at the next call."""
    services.tasks.refresh()
    known = services.tasks.tasks
    return Tasks(
        tasks=[
            TaskShown(
                name=name,
                kind=task.kind,
                title=task.description or name,
                labels=_labels(task),
                needs=known.needs.get(name),
                after=getattr(task, "after", None),
                revision=known.revision_of(name),
            )
            for name, task in known.items()
        ]
    )


@router.get("/v1/status", summary="Queues, workers, speed and labels, now", responses=PROBLEMS)
async def status(services: Shared) -> Status:
    """Read from Redis at each call; workers write what they do every two seconds. The speed is that between
    the calls of the last ten seconds."""
    found = await asyncio.to_thread(services.reader.read)
    told = found.workers
    latencies = services.latency.now(told)
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for info in told.values():
        for task, counts in info.labels.items():
            labels[task].update(counts)
    return Status(
        workers=len(found.stats.workers),
        queues=[
            QueueShown(
                name=name,
                length=queue.length,
                oldest_age_s=queue.oldest_age_s,
                latency_s=latencies.get(name),
            )
            for name, queue in found.stats.queues.items()
        ],
        items_per_s=round(services.speed.now(told), 3),
        labels={task: dict(counts) for task, counts in sorted(labels.items())},
        model=next((info.model for info in told.values() if info.model is not None), None),
    )


@health.get("/healthz", summary="Whether the gateway lives")
async def healthz() -> dict[str, str]:
    """Restart it if not."""
    return {"status": "ok"}


@health.get(
    "/readyz",
    summary="Whether texts would be worked on",
    responses={
        503: {
            "model": Problem,
            "description": "Redis does not answer, or no worker lives",
        }
    },
)
async def readyz(services: Shared) -> dict[str, str]:
    """Redis answers and a worker lives."""
    if not await services.client.workers_alive():
        raise Unavailable(
            "no worker is alive: start one with `moodq worker`, or `moodq up` for everything",
            code=ErrorCode.NO_WORKER,
        )
    return {"status": "ok"}


@health.get(
    "/metrics",
    dependencies=[Depends(admit)],
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses=PROBLEMS,
)
async def metrics(services: Shared) -> Response:
    """docs/metrics.md lists them."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _labels(task: Task) -> list[str]:
    if isinstance(task, ScoreTask):
        return list(task.values)
    return list(getattr(task, "labels", ()))
