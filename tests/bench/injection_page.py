"""``docs/security/prompt-injection.md``, made of ``build/injection/latest.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path("docs/security/prompt-injection.md")


def write_injection_page(document: dict[str, Any], page: Path = PAGE) -> Path:
    """Write the page; returns its path."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(document)) + "\n", "utf-8")
    return page


def _lines(document: dict[str, Any]) -> list[str]:
    model, prompts = document["model"], document["prompts"]
    count = document["attacks"]
    shipped = prompts[0]
    texts = " and ".join(f"{name} ({lines})" for name, lines in document["texts"].items())
    return [
        "# Prompt injection",
        "",
        "Written by `make injection`: every figure is from `build/injection/latest.json`.",
        "",
        "A text is data to the tokenizer: `<|im_end|>` in it is ten characters, not the end of a turn.",
        "A label is read off the probabilities of the task's own words, so nothing else can come out,",
        "whatever the text says. What a text can do is argue: the model reads it. This page says how far",
        "that gets.",
        "",
        f"{count} messages of a clear sentiment, half Chinese, half English",
        "([the texts](../../tests/bench/injection_texts.toml)), each alone and with a sentence that asks",
        "for the other label. A flip is a label that was right alone and is wrong with it. Accuracy is on",
        f"{texts}, without attacks; tokens are those one text costs",
        "there: what stands before the text is computed once.",
        "",
        f"Model {model['id']}, revision {model['revision']}, {model['precision']}; {document['at'][:10]}.",
        "",
        f"| prompt | flips of {count} | zh | en | p of the true label alone | attacked | accuracy zh | en "
        "| tokens |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(one) for one in prompts),
        "",
        "Flips by kind of attack:",
        "",
        "| prompt | " + " | ".join(shipped["flips_by_kind"]) + " |",
        "|---" * (1 + len(shipped["flips_by_kind"])) + "|",
        *(
            f"| {one['name']} | " + " | ".join(str(flips) for flips in one["flips_by_kind"].values()) + " |"
            for one in prompts
        ),
        "",
        "The prompts are in [injection_prompts.py](../../tests/bench/injection_prompts.py). What to make of",
        "it: a label is the model's opinion, and whoever writes the text takes part in it. Do not let it",
        "alone decide what a stranger gains by; treat `probability` as the model's and not as proof. A",
        "reply is free text and can be talked into anything a 0.5 B model can say: show it as text, never",
        "run, render or obey it.",
    ]


def _row(one: dict[str, Any]) -> str:
    flips, accuracy = one["flips_by_lang"], one["accuracy"]
    cells = [
        one["name"], one["flips"], flips["zh"], flips["en"], f"{one['probability_alone']:.3f}",
        f"{one['probability_attacked']:.3f}", f"{accuracy.get('zh', float('nan')):.3f}",
        f"{accuracy.get('en', float('nan')):.3f}", f"{one['new_tokens']:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"
