"""``docs/replies.md``, made of ``build/replies/latest.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moodq_config.tasks import LANGS
from moodq_worker.quality.reply_measures import Flaw

PAGE = Path("docs/replies.md")

_LANG_NAMES = {"zh": "Chinese", "en": "English"}
_MEANS = {
    Flaw.REFUSAL: "says that it cannot help, or what kind of program it is",
    Flaw.LANGUAGE: "is not in the message's language",
    Flaw.PROMISE: "promises or reports what the company did not say: refunds, deeds, times",
    Flaw.INVENTED: "names an address or number that is not in the message, or answers what only the "
    "company knows",
    Flaw.LENGTH: "is too short, too long, or of more than four sentences",
    Flaw.REPETITION: "says the same words twice, or the message again",
    Flaw.UNFINISHED: "does not end with the end of a sentence",
}


def write_reply_page(document: dict[str, Any], page: Path = PAGE) -> Path:
    """Write the page; returns its path."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(document)) + "\n", "utf-8")
    return page


def _lines(document: dict[str, Any]) -> list[str]:
    model, answered = document["model"], document["answered"]
    by_lang = {lang: [one for one in answered if one["lang"] == lang] for lang in LANGS}
    return [
        "# Replies",
        "",
        "Written by `make eval`: every figure and every reply is from `build/replies/latest.json`.",
        "",
        f"The shipped task `reply` on {len(answered)} messages written for this page",
        "([the messages](../tests/bench/customer_messages.toml)), none of which is an example in the prompt.",
        "The measures ([reply_measures.py](../worker/moodq_worker/quality/reply_measures.py)) are lists of",
        "phrases and counts: they find what they look for and no more. The prompt was chosen by these",
        "same messages, so expect more of others. Read the replies below: whether one is kind and of",
        "use, and whether it has understood, only a person can say.",
        "",
        f"Model {model['id']}, revision {model['revision']}, {model['precision']}; {document['at'][:10]}; "
        f"{document['seconds']:.0f} s for all, labels and replies.",
        "",
        "| a reply that | "
        + " | ".join(f"{_LANG_NAMES[lang]} ({len(by_lang[lang])})" for lang in LANGS)
        + " |",
        "|---" * (1 + len(LANGS)) + "|",
        *(
            f"| {_MEANS[flaw]} | "
            + " | ".join(str(sum(flaw in one["flaws"] for one in by_lang[lang])) for lang in LANGS)
            + " |"
            for flaw in Flaw
        ),
        "| has none of these | "
        + " | ".join(str(sum(not one["flaws"] for one in by_lang[lang])) for lang in LANGS)
        + " |",
        *(line for lang in LANGS for line in _part(lang, by_lang[lang])),
    ]


def _part(lang: str, answered: list[dict[str, Any]]) -> list[str]:
    mean = sum(len(one["reply"]) for one in answered) / max(1, len(answered))
    return [
        "",
        f"## {_LANG_NAMES[lang]}",
        "",
        f"{mean:.0f} characters on average. The mood is how the message was meant, the label what the model",
        "took it for and what steered the reply.",
        "",
        "| | mood, label | message | reply | flaws |",
        "|---|---|---|---|---|",
        *(
            f"| {number} | {one['mood']}, {one['label']} | {_cell(one['text'])} | {_cell(one['reply'])} | "
            + "; ".join(f"**{flaw}**: {_cell(shown)}" for flaw, shown in one["flaws"].items())
            + " |"
            for number, one in enumerate(answered, 1)
        ),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
