"""What runs replies: one contract, held by our own loop and by Transformers' continuous batching."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from moodq_config.errors import ModelError
from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.decode import Decode, Request, Writer
from moodq_worker.engine_hf.decode_continuous import PAGE_TOKENS, ContinuousDecode, other_view
from moodq_worker.engine_hf.decode_loop import DecodeLoop
from moodq_worker.engine_hf.packed import can_pack, fuse
from moodq_worker.engine_hf.prefixes import Prefixes

KV_TOKENS = 4_096
MAKERS: dict[str, Callable[[PreTrainedModel, Writer, int], Decode]] = {
    "loop": lambda model, writer, kv_tokens: DecodeLoop(model, writer, Prefixes(model, 4_096), kv_tokens),
    "continuous": ContinuousDecode,
}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="sdpa")
    model: PreTrainedModel = loaded.eval()
    return model


@pytest.fixture(scope="module")
def writer(tiny_folder: Path) -> Writer:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_folder)
    return Writer(tokenizer, frozenset({tokenizer.eos_token_id}))


@pytest.fixture(scope="module")
def prefixes() -> list[tuple[int, ...]]:
    """Two fixed prompts: one of a little more than two pages, one shorter than a page."""
    draw = random.Random(3)
    return [tuple(draw.choices(range(256), k=count)) for count in (2 * PAGE_TOKENS + 7, PAGE_TOKENS - 5)]


@pytest.fixture(params=list(MAKERS))
def decode(request: pytest.FixtureRequest, model: PreTrainedModel, writer: Writer) -> Decode:
    return MAKERS[request.param](model, writer, KV_TOKENS)


def requests_of(prefixes: list[tuple[int, ...]], count: int, **asked: Any) -> list[Request]:
    draw = random.Random(5)
    return [
        Request(
            key,
            prefixes[key % len(prefixes)],
            tuple(draw.choices(range(256), k=draw.randint(1, 40))),
            **{"max_new_tokens": draw.randint(3, 30), **asked},
        )
        for key in range(count)
    ]


def plain(model: Any, writer: Writer, request: Request) -> tuple[list[int], str]:
    """(tokens, finish reason) by one whole forward pass a token: no cache, no batch."""
    made: list[int] = []
    while len(made) < request.max_new_tokens:
        ids = torch.tensor([[*request.prefix, *request.tokens, *made]])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, -1].float()
        for token in set(made):
            scores[token] *= (
                request.repetition_penalty if scores[token] < 0 else 1 / request.repetition_penalty
            )
        token = int(scores.argmax())
        if token in writer.stop_tokens:
            return made, "stop"
        made.append(token)
    return made, "length"


class Heard:
    """Collects events, and checks what holds of each of them."""

    def __init__(self) -> None:
        self.text: dict[int, str] = {}
        self.tokens: dict[int, int] = {}
        self.reason: dict[int, str] = {}

    def take(self, decode: Decode) -> set[int]:
        """One step; the keys that had events."""
        return self.take_events(decode.step())

    def take_events(self, events: list[DecodeEvent]) -> set[int]:
        for event in events:
            assert event.key not in self.reason, "an event after the last one"
            before = self.tokens.get(event.key)
            assert before is None or event.tokens in (before, before + 1)
            self.tokens[event.key] = event.tokens
            self.text[event.key] = self.text.get(event.key, "") + event.text
            if event.finish_reason is not None:
                self.reason[event.key] = event.finish_reason
        return {event.key for event in events}

    def take_all(self, decode: Decode) -> None:
        for _ in range(1_000):
            if not len(decode):
                break
            self.take(decode)
        assert not len(decode)
        self.take(decode)


def text_of(writer: Writer, tokens: list[int]) -> str:
    return str(writer._tokenizer.decode(tokens, skip_special_tokens=True))


def test_requests_that_join_and_leave_equal_plain_greedy_generation(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    requests = requests_of(prefixes, 12)
    heard = Heard()
    for start in range(0, 12, 3):
        decode.join(requests[start : start + 3])
        heard.take(decode)
        heard.take(decode)
    heard.take_all(decode)
    for request in requests:
        tokens, reason = plain(model, writer, request)
        assert heard.text[request.key] == text_of(writer, tokens)
        assert (heard.tokens[request.key], heard.reason[request.key]) == (len(tokens), reason)


def test_plain_generate_gives_the_same_tokens(
    decode: Decode, model: Any, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    [request] = requests_of(prefixes, 1, max_new_tokens=25)
    ids = torch.tensor([[*request.prefix, *request.tokens]])
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=25, do_sample=False)
    decode.join([request])
    heard = Heard()
    heard.take_all(decode)
    assert heard.text[0] == text_of(writer, made[0, ids.shape[1] :].tolist())


def test_each_request_has_its_own_repetition_penalty(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    one = requests_of(prefixes, 2)[1]
    asked = [
        Request(key, one.prefix, one.tokens, 60, repetition_penalty=penalty)
        for key, penalty in enumerate((1.0, 1.2, 2.0))
    ]
    expected = [plain(model, writer, request) for request in asked]
    assert len({tuple(tokens) for tokens, _ in expected}) == 3
    for _ in range(2):  # the second time in slots that others have left
        decode.join(asked)
        heard = Heard()
        heard.take_all(decode)
        for request, (tokens, reason) in zip(asked, expected, strict=True):
            assert heard.text[request.key] == text_of(writer, tokens)
            assert heard.reason[request.key] == reason


class Alternating:
    """A grammar of two letters in turn, that ends after five."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def allow(self, logits: torch.Tensor) -> None:
        wanted = (65, 66)[len(self.taken) % 2]
        kept = logits[wanted].clone()
        logits.fill_(-torch.inf)
        logits[wanted] = kept

    def take(self, token: int) -> bool:
        self.taken.append(token)
        return len(self.taken) == 5


def test_a_request_follows_its_own_grammar_and_ends_with_it(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    free, bound = requests_of(prefixes, 2, max_new_tokens=30)
    for _ in range(2):  # the second time in slots that others have left
        grammar: Any = Alternating()
        decode.join([free, replace(bound, constraint=grammar, repetition_penalty=1.5)])
        heard = Heard()
        heard.take_all(decode)
        assert grammar.taken == [65, 66, 65, 66, 65]
        assert (heard.tokens[1], heard.reason[1]) == (5, "stop")
        assert heard.text[0] == text_of(writer, plain(model, writer, free)[0])


def test_an_answer_ends_at_a_stop_token(
    model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    """The stop token is the fourth that the model makes."""
    [request] = requests_of(prefixes, 1, max_new_tokens=20)
    tokens, _ = plain(model, Writer(None, frozenset()), request)
    stop = next(token for place, token in enumerate(tokens) if place >= 3 and token not in tokens[:place])
    stopping = Writer(writer._tokenizer, frozenset({stop}))
    for make in MAKERS.values():
        decode = make(model, stopping, KV_TOKENS)
        decode.join([request])
        heard = Heard()
        heard.take_all(decode)
        assert heard.reason[0] == "stop"
        assert heard.tokens[0] == tokens.index(stop)
        assert heard.text[0] == text_of(writer, tokens[: tokens.index(stop)])


def test_tokens_come_one_a_step(decode: Decode, prefixes: list[tuple[int, ...]]) -> None:
    decode.join(requests_of(prefixes, 4, max_new_tokens=10))
    heard = Heard()
    heard.take(decode)
    assert all(1 <= tokens <= 3 for tokens in heard.tokens.values())  # those that lead have had a pass more
    before = dict(heard.tokens)
    running = set(before) - set(heard.reason)
    assert heard.take(decode) == running
    assert all(heard.tokens[key] - before[key] <= 1 for key in running)


def test_a_cancelled_request_is_silent_at_once_and_its_key_can_come_again(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    requests = requests_of(prefixes, 3, max_new_tokens=30)
    decode.join(requests)
    decode.step()
    decode.cancel(1)
    decode.cancel(99)
    assert len(decode) == 2
    assert 1 not in {event.key for event in decode.step()}
    decode.join([requests[1]])
    decode.cancel(1)
    assert 1 not in {event.key for event in decode.step()}
    decode.join([requests[1]])
    heard = Heard()
    heard.take_all(decode)
    assert heard.text[1] == text_of(writer, plain(model, writer, requests[1])[0])
    assert set(heard.reason) == {0, 1, 2}


def test_room_is_given_back_by_whoever_leaves(decode: Decode, prefixes: list[tuple[int, ...]]) -> None:
    large = requests_of(prefixes, 2, max_new_tokens=1_000)
    many = requests_of(prefixes, 3, max_new_tokens=700)
    assert decode.fits(large)
    decode.join(large)
    assert not decode.fits(many)
    for request in large:
        decode.cancel(request.key)
    assert decode.fits(many)


def test_a_single_request_always_fits_an_empty_batch(decode: Decode, prefixes: list[tuple[int, ...]]) -> None:
    huge = Request(0, prefixes[0], (1, 2, 3), KV_TOKENS)
    assert decode.fits([huge])
    assert not decode.fits([huge, Request(1, prefixes[0], (1, 2), 5)])


def test_the_cache_is_used_to_its_bound_without_harm(
    model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    """As many as fit join at once, again and again, over the pages that earlier ones left behind."""
    for make in MAKERS.values():
        decode = make(model, writer, 1_024)
        waiting = requests_of(prefixes, 40, max_new_tokens=70)
        heard = Heard()
        while waiting or len(decode):
            joining: list[Request] = []
            while waiting and decode.fits([*joining, waiting[0]]):
                joining.append(waiting.pop(0))
            if joining:
                decode.join(joining)
            heard.take(decode)
        heard.take(decode)
        assert set(heard.reason) == set(range(40))
        for request in requests_of(prefixes, 40, max_new_tokens=70)[::9]:
            assert heard.text[request.key] == text_of(writer, plain(model, writer, request)[0])


def test_what_fails_to_join_leaves_the_others_as_they_were(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    """A pass that raises in its last layer, as one that runs out of memory does."""
    asked = requests_of(prefixes, 5, max_new_tokens=25, repetition_penalty=1.3)
    decode.join(asked[:3])
    heard = Heard()
    heard.take(decode)

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory for this pass")

    layers: Any = model.base_model.layers
    hook = layers[-1].register_forward_pre_hook(out_of_memory)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            decode.join(asked[3:])
    finally:
        hook.remove()
    assert len(decode) + len(heard.reason) == 3
    decode.join(asked[3:])
    heard.take_all(decode)
    for request in asked:
        assert heard.text[request.key] == text_of(writer, plain(model, writer, request)[0])


def test_a_text_that_gives_no_numbers_fails_alone(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    """It ends with an error, or does not get in; what others ask later is computed from sound keys."""
    bad = 256
    asked = requests_of(prefixes, 4, max_new_tokens=25)
    poisoned = Request(9, prefixes[0], (bad, 3), 10)
    embedding: Any = model.get_input_embeddings()
    hook = embedding.register_forward_hook(
        lambda _, args, out: out.masked_fill((args[0] == bad)[..., None], float("nan"))
    )
    try:
        decode.join(asked[:2])
        heard = Heard()
        heard.take(decode)
        try:
            decode.join([poisoned])
        except FloatingPointError:
            errors = [9]
        else:
            events = decode.step()
            errors = [event.key for event in events if event.error is not None]
            heard.take_events([event for event in events if event.error is None])
        assert errors == [9]
        decode.join(asked[2:])
        heard.take_all(decode)
    finally:
        hook.remove()
    for request in asked:
        assert heard.text[request.key] == text_of(writer, plain(model, writer, request)[0])


def test_after_a_failed_step_others_can_run(
    decode: Decode, model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    asked = requests_of(prefixes, 2, max_new_tokens=10)
    decode.join([asked[0]])

    def fail(*_: object) -> None:
        raise RuntimeError("a kernel failed")

    layers: Any = model.base_model.layers
    hook = layers[-1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="a kernel failed"):
            decode.step()
    finally:
        hook.remove()
    decode.clear()
    assert not len(decode)
    assert decode.step() == []
    decode.join([asked[1]])
    heard = Heard()
    heard.take_all(decode)
    assert heard.text == {1: text_of(writer, plain(model, writer, asked[1])[0])}


def test_a_pass_runs_in_the_callers_thread_and_lets_labels_in(
    decode: Decode, prefixes: list[tuple[int, ...]]
) -> None:
    threads: set[int] = set()
    layers: Any = decode.model.base_model.layers
    hook = layers[0].register_forward_pre_hook(lambda *_: threads.add(threading.get_ident()))
    try:
        decode.join(requests_of(prefixes, 2))
        decode.step()
    finally:
        hook.remove()
    assert threads == {threading.get_ident()}


def test_continuous_batching_prefills_a_prefix_once(
    model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    """Whole pages of it, by the first who comes; the rest of the last page is new for each."""
    decode = ContinuousDecode(model, writer, KV_TOKENS)
    new = len(prefixes[0]) % PAGE_TOKENS + 3
    whole = len(prefixes[0]) - len(prefixes[0]) % PAGE_TOKENS
    for passes in ([whole + new, 1 + 3 * new], [4 * new]):
        widths: list[int] = []
        layers: Any = model.base_model.layers
        hook = layers[0].register_forward_pre_hook(lambda _, args, into=widths: into.append(args[0].shape[1]))
        try:
            decode.join([Request(key, prefixes[0], (key, 1, 2), 5) for key in range(4)])
        finally:
            hook.remove()
        assert widths == passes
        decode.clear()


def test_continuous_batching_says_which_request_is_larger_than_its_cache(
    model: PreTrainedModel, writer: Writer, prefixes: list[tuple[int, ...]]
) -> None:
    decode = ContinuousDecode(model, writer, 1_024)
    with pytest.raises(ModelError, match="raise MOODQ_KV_TOKENS"):
        decode.join([Request(0, prefixes[0], (1,), 1_024)])
    assert not len(decode)


def test_another_view_shares_the_weights_and_has_its_own_attention(model: PreTrainedModel) -> None:
    view = other_view(model, "eager")
    assert view.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"
    for mine, theirs in zip(model.parameters(), view.parameters(), strict=True):
        assert mine is theirs
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        torch.testing.assert_close(view(input_ids=ids).logits, model(input_ids=ids).logits)


def test_fused_layers_serve_both(tiny_folder: Path, writer: Writer, prefixes: list[tuple[int, ...]]) -> None:
    """In bf16 a near tie may fall either way, so the two are compared by how far they agree."""
    if not can_pack("bf16"):
        pytest.skip("this CPU has no native bf16: its layers are Transformers' own")
    fused = AutoModelForCausalLM.from_pretrained(
        tiny_folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    assert fuse(fused.eval())
    texts = []
    for make in MAKERS.values():
        decode = make(fused, writer, KV_TOKENS)
        decode.join(requests_of(prefixes, 8, max_new_tokens=6))
        heard = Heard()
        heard.take_all(decode)
        texts.append(heard.text)
    same = sum(texts[0][key] == texts[1][key] for key in range(8))
    assert same >= 6
