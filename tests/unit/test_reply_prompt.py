"""The chat turns of a generate task's prompt."""

from __future__ import annotations

from moodq_config.tasks import GenerateTask, load_tasks
from moodq_worker.turns import generate_turns


def test_an_example_of_a_label_stands_only_in_the_prompt_that_the_label_steers() -> None:
    task = load_tasks()["reply"]
    assert isinstance(task, GenerateTask)
    for prompt in task.prompt.values():
        for label in prompt.steer:
            shown = [turn.content for turn in generate_turns(prompt, label) if turn.role == "assistant"]
            assert shown == [one.reply for one in prompt.examples if one.label in (None, label)]
            assert len(shown) < len(prompt.examples)
