"""A plan, and measured costs, for a person to read."""

from __future__ import annotations

import statistics

from moodq_worker.capacity.costs import Costs
from moodq_worker.capacity.planning import Plan, lacking


def plan_lines(found: Plan) -> list[str]:
    """Answer first, then what it needs, then on what it rests."""
    asked, redis = found.question, found.redis
    what = f"{asked.per_s:g} texts/s with {', '.join(asked.tasks)}, 95 of 100 within {asked.p95_s:g} s"
    lines = [what]
    if found.outcome is None:
        lines.append(f"  cannot be met: {found.reason}")
    else:
        outcome = found.outcome
        lines += [
            f"  workers   {found.workers}, each {asked.per_s / found.workers:.1f} texts/s of "
            f"{found.most_per_worker_s:.1f} at most, its engine busy {outcome.busy:.0%} of the time",
            f"  latency   p50 {outcome.p50_s:.3f} s, p95 {outcome.p95_s:.3f} s; alone {found.alone_s:.3f} s",
            f"  memory    {found.memory_mb:,.0f} MiB for the workers "
            f"({found.memory_mb / found.workers:,.0f} each)",
        ]
    lines.append(
        f"  Redis     {redis.memory_mb:,.0f} MiB of results, {redis.commands_per_s:,.0f} commands/s, "
        f"{redis.mbit_per_s:.1f} Mbit/s, its thread busy {redis.busy:.1%} of the time"
    )
    lines += [f"  needs     {line}" for line in lacking(found)]
    lines += ["assumed:", *(f"  - {line}" for line in found.assumptions)]
    return lines


def costs_lines(costs: Costs) -> list[str]:
    """What was measured."""
    model = costs.model
    lines = [
        f"{model.id} {model.revision}, {model.precision}, {costs.threads} threads of {costs.machine}; "
        f"batches of {costs.batch_tokens} tokens; {costs.rss_bytes / 2**20:,.0f} MiB"
    ]
    for name, one in costs.passes.items():
        lines.append(
            f"  {name}: a pass takes {one.pass_s * 1e3:.1f} ms and {one.token_s * 1e3:.3f} ms a token"
        )
    for name, write in costs.writes.items():
        join = write.join
        lines.append(
            f"  {name}: to join {join.pass_s * 1e3:.1f} ms and {join.token_s * 1e3:.3f} ms a token; "
            f"a step {write.step_s * 1e3:.1f} ms and {write.row_s * 1e3:.2f} ms a text; "
            f"{statistics.mean(write.lengths):.0f} tokens on average"
        )
    return lines
