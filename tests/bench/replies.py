"""Replies: alone, and 32 at once, through the queue and by the peers, on the same messages."""

from __future__ import annotations

import time
from collections.abc import Sequence

from moodq_config.contracts import GeneratedText, Result
from moodq_producer import Client

from .child import Child, ChildFailed
from .figures import Figures, TableOf, median, percentile
from .service import RESULT_TIMEOUT_S
from .texts import Labelled

ALONE = 4
TOGETHER = 32
#: moodq's two ways to run replies, over the same loaded weights, without queue and repetition penalty.
OWN = {"loop": "moodq's loop, engine alone", "continuous": "moodq over Transformers' continuous batching"}


def replies(
    clients: dict[str, Client],
    engine: Child,
    llama: Child | None,
    transformers: Child,
    texts: Sequence[Labelled],
    rounds: int,
    into: Figures,
) -> None:
    """``clients`` by the precision of their worker; the first is the one the ratios are of."""
    alone: dict[str, list[float]] = {}
    together: dict[str, list[float]] = {}
    first_token: dict[str, list[float]] = {}
    asked = engine.call("reply_prompts", [(text.text, text.lang) for text in texts[:TOGETHER]])
    prompts, stop, limit = asked["prompts"], asked["stop"], asked["max_new_tokens"]
    whole = [[*prompt["prefix"], *prompt["rest"]] for prompt in prompts]
    for _ in range(rounds):
        for precision, client in clients.items():
            name = f"moodq {precision}, through the queue"
            speeds = [_written(client, [text])[0] for text in texts[:ALONE]]
            alone.setdefault(name, []).append(median(speeds))
            speed, waits = _written(client, texts[:TOGETHER])
            together.setdefault(name, []).append(speed)
            first_token.setdefault(name, []).extend(waits)
        for way, name in OWN.items():
            try:
                speeds = [_speed(engine.call("replies", way, [prompt], limit)) for prompt in prompts[:ALONE]]
                together.setdefault(name, []).append(_speed(engine.call("replies", way, prompts, limit)))
                alone.setdefault(name, []).append(median(speeds))
            except ChildFailed as error:
                _leave_out(into, name, error)
        if llama is not None:
            made, taken = llama.call("replies_alone", prompts[:ALONE], stop, limit)
            alone.setdefault("llama.cpp", []).append(made / taken)
            made, taken = llama.call("replies_together", prompts, stop, limit)
            together.setdefault("llama.cpp", []).append(made / taken)
        for name, way in (
            ("Transformers, padded batch", "padded"),
            ("Transformers, continuous", "continuous"),
        ):
            try:
                made, taken = transformers.call(way, whole, stop, limit)
            except ChildFailed as error:
                _leave_out(into, name, error)
                continue
            together.setdefault(name, []).append(made / taken)
    rows = []
    for name in {**alone, **together}:
        firsts = first_token.get(name)
        rows.append(
            [
                name,
                round(median(alone[name]), 1) if name in alone else None,
                round(median(together[name]), 1) if name in together else None,
                round(percentile(firsts, 95), 2) if firsts else None,
            ]
        )
    title = "Replies: tokens a second"
    into.tables.append(TableOf(title, ["", "alone", f"{TOGETHER} at once", "first token p95 s"], rows))
    peers = [median(speeds) for name, speeds in together.items() if not name.startswith("moodq")]
    if all(name in together for name in OWN.values()):
        into.ratios["replies32_continuous_vs_loop"] = round(
            median(together[OWN["continuous"]]) / median(together[OWN["loop"]]), 3
        )
    for number, precision in enumerate(clients):
        name, suffix = f"moodq {precision}, through the queue", f"_{precision}" if number else ""
        if "llama.cpp" in alone:
            into.ratios[f"reply_alone_vs_llama_cpp{suffix}"] = round(
                median(alone[name]) / median(alone["llama.cpp"]), 3
            )
        if peers:
            into.ratios[f"replies32_vs_best_peer{suffix}"] = round(median(together[name]) / max(peers), 3)
        into.figures[f"replies32_first_token_p95_s{suffix}"] = round(percentile(first_token[name], 95), 3)


def _speed(measured: Sequence[float]) -> float:
    made, taken = measured
    return made / taken


def _leave_out(into: Figures, name: str, error: Exception) -> None:
    if not any(name in line for line in into.left_out):
        into.left_out.append(f"{name}: {error}")


def _written(client: Client, texts: Sequence[Labelled]) -> tuple[float, list[float]]:
    """(tokens a second from the first submit to the last result, seconds to each first token). The label that
    steers a reply is in the time."""
    began = time.perf_counter()
    tickets = list(client.submit_many([text.text for text in texts], ["reply"], queue="interactive"))
    found = client.wait([ticket.id for ticket in tickets], RESULT_TIMEOUT_S)
    results: list[Result] = list(found)
    taken = time.perf_counter() - began
    tokens, waits = 0, []
    for result in results:
        reply = result.results.get("reply")
        if isinstance(reply, GeneratedText) and result.timings_ms is not None:
            tokens += reply.tokens
            waits.append((result.timings_ms.total - result.timings_ms.decode) / 1e3)
    return tokens / taken, waits
