"""What producers and workers agree on: settings, contracts, names, tasks and errors.

Nothing here imports redis, rq or torch, so both ends of the queue can share it.
"""

from moodq_config.contracts import (
    CONTRACT_VERSION,
    GeneratedText,
    ItemError,
    LabelScores,
    ModelRef,
    RequestItem,
    Result,
    ResultStatus,
    Timings,
)
from moodq_config.errors import ErrorCode, MoodqError
from moodq_config.settings import Settings, load_settings
from moodq_config.tasks import GenerateTask, LabelTask, Task, TaskSet, load_tasks

__all__ = [
    "CONTRACT_VERSION",
    "ErrorCode",
    "GenerateTask",
    "GeneratedText",
    "ItemError",
    "LabelScores",
    "LabelTask",
    "ModelRef",
    "MoodqError",
    "RequestItem",
    "Result",
    "ResultStatus",
    "Settings",
    "Task",
    "TaskSet",
    "Timings",
    "load_settings",
    "load_tasks",
]
