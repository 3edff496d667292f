"""JSON that follows a task's schema: schemas checked before a model loads, answers checked before delivery.

The engine limits what can be written by a grammar made here (``engine_hf.grammar``); what comes out is still
validated, by another library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from llguidance import LLMatcher

from moodq_config.answers import Extracted
from moodq_config.errors import ConfigError, ErrorCode, ModelError
from moodq_config.tasks import ExtractTask, Task, TaskSet

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
    for message in schema_faults(tasks.extracts()):
        raise ConfigError(message, code=ErrorCode.TASKS_INVALID)


def schema_faults(tasks: Iterable[Task]) -> Iterator[str]:
    """All that is wrong with the schemas of ``tasks`` and with their examples, each beginning with the
    field."""
    for task in tasks:
        if isinstance(task, ExtractTask):
            if problem := _schema_problem(task.json_schema):
                yield f"tasks.{task.name}.schema: {problem}"
            else:
                yield from _example_faults(task)


def _schema_problem(schema: dict[str, Any]) -> str | None:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return str(error.message)
    if problem := LLMatcher.validate_grammar(grammar_of(schema)):
        return _first_line(problem)
    try:
        Draft202012Validator(schema).is_valid(None)
    except RecursionError:
        return "it refers to itself without end; name a type on the way"
    return None


def _example_faults(task: ExtractTask) -> Iterator[str]:
    validator = Draft202012Validator(task.json_schema)
    for lang, prompt in task.prompt.items():
        for number, example in enumerate(prompt.examples):
            if (error := best_match(validator.iter_errors(example.data))) is not None:
                yield (
                    f"tasks.{task.name}.prompt.{lang}.examples.{number}.data: {error.message}; the task's "
                    "schema must allow it"
                )


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
