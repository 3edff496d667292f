"""JSON that follows a task's schema: schemas checked before a model loads, answers checked before delivery.

The engine limits what can be written by a grammar made here (``engine_hf.grammar``); what comes out is still
validated, by another library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from llguidance import LLMatcher

from moodq_config.answers import Extracted
from moodq_config.errors import ConfigError, ErrorCode, ModelError
from moodq_config.tasks import ExtractTask, TaskSet

#: JSON as examples show it and as it is written.
ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "


def write_json(data: Any) -> str:
    """``data`` in the one form that the grammar allows."""
    return json.dumps(data, ensure_ascii=False, separators=(ITEM_SEPARATOR, KEY_SEPARATOR))


def grammar_of(schema: Mapping[str, Any]) -> str:
    """llguidance's grammar of JSON that ``schema`` allows, in the form of ``write_json``."""
    grammar: str = LLMatcher.grammar_from_json_schema(
        dict(schema),
        overrides={
            "item_separator": ITEM_SEPARATOR,
            "key_separator": KEY_SEPARATOR,
            "whitespace_flexible": False,
        },
    )
    return grammar


def check_schemas(tasks: TaskSet) -> None:
    """Raises ``ConfigError`` (tasks_invalid) naming the task whose schema cannot be written to, or whose
    example its own schema refuses."""
    for task in tasks.extracts():
        where = f"tasks.{task.name}.schema"
        try:
            Draft202012Validator.check_schema(task.json_schema)
        except SchemaError as error:
            raise ConfigError(f"{where}: {error.message}", code=ErrorCode.TASKS_INVALID) from None
        if problem := LLMatcher.validate_grammar(grammar_of(task.json_schema)):
            raise ConfigError(f"{where}: {_first_line(problem)}", code=ErrorCode.TASKS_INVALID)
        try:
            Draft202012Validator(task.json_schema).is_valid(None)
        except RecursionError:
            raise ConfigError(
                f"{where}: it refers to itself without end; name a type on the way",
                code=ErrorCode.TASKS_INVALID,
            ) from None
        for lang, prompt in task.prompt.items():
            for number, example in enumerate(prompt.examples):
                try:
                    Draft202012Validator(task.json_schema).validate(example.data)
                except ValidationError as error:
                    raise ConfigError(
                        f"tasks.{task.name}.prompt.{lang}.examples.{number}.data: {error.message}; the "
                        "task's schema must allow it",
                        code=ErrorCode.TASKS_INVALID,
                    ) from None


def read_extracted(task: ExtractTask, text: str, tokens: int, *, ended: bool) -> Extracted:
    """The answer that was written. Raises ``ModelError``: answer_too_long when the limit of tokens ended it,
    engine_failed when the schema does not allow it."""
    if not ended:
        raise ModelError(
            f"task {task.name}: the JSON did not end within {task.max_new_tokens} tokens; send a shorter "
            "text, raise the task's max_new_tokens, or bound its schema by maxLength and maxItems",
            code=ErrorCode.ANSWER_TOO_LONG,
        )
    try:
        data = json.loads(text)
        Draft202012Validator(task.json_schema).validate(data)
    except (ValueError, ValidationError) as error:
        raise ModelError(
            f"task {task.name}: the model wrote JSON that the task's schema does not allow",
            code=ErrorCode.ENGINE_FAILED,
        ) from error
    return Extracted(data=data, tokens=tokens)


def _first_line(problem: str) -> str:
    return problem.strip().splitlines()[0]
