"""The batcher keeps every text, every budget and every queue's share."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from moodq_worker.batcher import PADDED, Batcher, Entry

QUEUES = ("interactive", "bulk")
texts = st.lists(
    st.tuples(st.sampled_from(QUEUES), st.sampled_from(["zh", "en"]), st.integers(1, 400)), max_size=80
)


def filled(rows: list[tuple[str, str, int]], *, budget: int = 256, share: float = 0.25) -> Batcher[int]:
    batcher: Batcher[int] = Batcher(QUEUES, budget=budget, share=share)
    for key, (queue, group, tokens) in enumerate(rows):
        batcher.add(queue, Entry(key, group, tokens, key))
    return batcher


@given(rows=texts, share=st.floats(0, 1))
def test_every_text_leaves_in_exactly_one_batch(rows: list[tuple[str, str, int]], share: float) -> None:
    batcher = filled(rows, share=share)
    seen: Counter[int] = Counter()
    while batch := batcher.next_batch():
        seen.update(entry.key for entry in batch)
    assert seen == Counter(range(len(rows)))
    assert len(batcher) == 0


@given(rows=texts)
def test_a_batch_keeps_to_its_budget_its_group_and_its_queue(rows: list[tuple[str, str, int]]) -> None:
    batcher = filled(rows, budget=256)
    while batch := batcher.next_batch():
        tokens = [entry.tokens for entry in batch]
        assert len(batch) == 1 or (sum(tokens) <= 256 and len(batch) * max(tokens) <= 256 * PADDED)
        assert len({entry.group for entry in batch}) == 1
        assert len({rows[entry.key][0] for entry in batch}) == 1


@given(rows=texts)
def test_the_oldest_text_of_the_chosen_queue_is_always_taken(rows: list[tuple[str, str, int]]) -> None:
    batcher = filled(rows)
    waiting = {queue: [key for key, row in enumerate(rows) if row[0] == queue] for queue in QUEUES}
    while batch := batcher.next_batch():
        queue = rows[batch[0].key][0]
        taken = {entry.key for entry in batch}
        assert waiting[queue][0] in taken
        waiting[queue] = [key for key in waiting[queue] if key not in taken]


def test_texts_of_similar_length_go_together() -> None:
    batcher = filled([("bulk", "zh", tokens) for tokens in (10, 200, 11, 210, 12, 190)], budget=450)
    first = batcher.next_batch()
    assert sorted(entry.tokens for entry in first) == [10, 11, 12]


def test_bulk_gets_its_share_of_batches_while_interactive_is_busy() -> None:
    rows = [(queue, "zh", 100) for queue in QUEUES for _ in range(40)]
    batcher = filled(rows, budget=100, share=0.25)
    first_forty = [rows[batcher.next_batch()[0].key][0] for _ in range(40)]
    assert Counter(first_forty) == {"interactive": 30, "bulk": 10}


def test_with_no_share_bulk_waits_for_interactive_to_be_idle() -> None:
    rows = [(queue, "zh", 100) for queue in QUEUES for _ in range(5)]
    batcher = filled(rows, budget=100, share=0.0)
    order = [rows[batcher.next_batch()[0].key][0] for _ in range(10)]
    assert order == ["interactive"] * 5 + ["bulk"] * 5


def test_a_removed_text_is_in_no_batch() -> None:
    batcher = filled([("bulk", "zh", 10), ("bulk", "zh", 11)])
    assert batcher.remove(0)
    assert not batcher.remove(0)
    assert [entry.key for entry in batcher.next_batch()] == [1]


@given(rows=texts, firsts=st.sets(st.integers(0, 79)))
def test_texts_that_go_first_lose_none_and_starve_none(
    rows: list[tuple[str, str, int]], firsts: set[int]
) -> None:
    batcher: Batcher[int] = Batcher(QUEUES, budget=256, share=0.25)
    for key, (queue, group, tokens) in enumerate(rows):
        batcher.add(queue, Entry(key, group, tokens, key, first=key in firsts))
    seen: Counter[int] = Counter()
    while batch := batcher.next_batch():
        seen.update(entry.key for entry in batch)
    assert seen == Counter(range(len(rows)))
    assert not batcher.has_first


def test_a_text_that_goes_first_overtakes_and_the_oldest_still_has_its_turn() -> None:
    batcher: Batcher[str] = Batcher(QUEUES, budget=10, share=0.0)
    for key in range(2):
        batcher.add("interactive", Entry(key, "zh", 10, "reply"))
    for key in range(2, 8):
        batcher.add("interactive", Entry(key, "zh", 10, "label", first=True))
    order = [batcher.next_batch()[0].item for _ in range(8)]
    assert order[:3] == ["label"] * 3
    assert order[3] == "reply", "one batch in four is the oldest's"


def test_the_first_batch_is_of_the_first_queue_and_around_what_goes_first() -> None:
    batcher: Batcher[str] = Batcher(QUEUES, budget=20, share=0.5)
    batcher.add("bulk", Entry(0, "zh", 10, "bulk", first=True))
    assert batcher.first_batch() == []
    batcher.add("interactive", Entry(1, "zh", 10, "steers a reply"))
    assert (batcher.first_batch(), batcher.has_first) == ([], False)
    batcher.add("interactive", Entry(2, "en", 10, "label", first=True))
    batcher.add("interactive", Entry(3, "en", 10, "steers another"))
    assert [entry.key for entry in batcher.first_batch()] == [2, 3]
    assert len(batcher) == 2
