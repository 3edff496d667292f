"""The end of a text that its maximum cuts."""

from __future__ import annotations

import pytest

from moodq_worker.sentences import to_show, whole_sentences


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        ("非常抱歉。", "请把订单"),
        ("他说：“我马上来。”", "然后"),
        ("真的吗？！", "我们"),
        ("I'm so sorry. Please call us!", " We wou"),
        ('She said "come in."', " And th"),
        ("It costs 3.50 a day.", " Every 1.5"),
        ("Look at v1.2.", " It has a.b and 3."),
        ("", "no end in sight"),
        ("", "pay 3.50"),
    ],
)
def test_what_counts_of_a_cut_text_ends_with_its_last_whole_sentence(kept: str, cut: str) -> None:
    assert whole_sentences(kept + cut) == len(kept)


def test_a_full_stop_after_a_digit_ends_a_sentence_only_when_more_follows() -> None:
    assert whole_sentences("There are 3. ") == len("There are 3.")
    assert whole_sentences("There are 3.") == 0


@pytest.mark.parametrize(
    "text", ["One two. Three four five six.", "一句话。两句话，还没", "no sentence at all, ever"]
)
@pytest.mark.parametrize("maximum", [4, 8, 16, 64])
def test_what_was_shown_is_never_cut_and_what_counts_is_all_shown(text: str, maximum: int) -> None:
    """A character a token; the text ends by itself or at the maximum."""
    shown = 0
    for tokens in range(1, min(len(text), maximum) + 1):
        reason = "stop" if tokens == len(text) else "length" if tokens == maximum else None
        end = to_show(text[:tokens], shown, tokens=tokens, max_tokens=maximum, finish_reason=reason)
        assert shown <= end <= tokens
        shown = end
    whole = text[:tokens]
    assert shown == len(whole) or (reason == "length" and shown == whole_sentences(whole))


def test_before_half_of_the_maximum_text_is_shown_as_it_comes_and_then_by_sentences() -> None:
    def end(text: str, shown: int, tokens: int) -> int:
        return to_show(text, shown, tokens=tokens, max_tokens=10, finish_reason=None)

    assert end("One tw", 3, tokens=4) == 6
    assert end("One two. Th", 6, tokens=5) == 8
    assert end("One two. Three", 8, tokens=6) == 8
    assert end("One two. Three. ", 8, tokens=7) == 15
