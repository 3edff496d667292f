"""What the engine costs on this machine, as measured: a file in the data folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moodq_config.contracts import ModelRef
from moodq_config.errors import ConfigError
from moodq_config.settings import Settings

FILE = "costs.json"
HOW_TO_MEASURE = "measure them with: moodq plan --measure"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PassCost(_Frozen):
    """A forward pass takes ``pass_s`` and ``token_s`` for each new token: seconds. ``suffix_tokens`` are
    those that a text brings beside its own."""

    pass_s: float = Field(ge=0)
    token_s: float = Field(ge=0)
    suffix_tokens: int = Field(ge=0)

    def seconds(self, texts: int, tokens: float) -> float:
        """Of a pass over ``texts`` of ``tokens`` each."""
        return self.pass_s + self.token_s * texts * (tokens + self.suffix_tokens)


class WriteCost(_Frozen):
    """``join`` is the prefill; a decode step takes ``step_s`` and ``row_s`` for each running text.
    ``lengths`` are tokens of the texts that were written while measuring."""

    join: PassCost
    step_s: float = Field(ge=0)
    row_s: float = Field(ge=0)
    lengths: tuple[int, ...] = Field(min_length=1)


class Costs(_Frozen):
    """``passes`` by the names of the tasks that one pass answers, joined by ``+``; ``writes`` by task.
    ``rss_bytes``: memory of the process after measuring. ``text_tokens``: of the texts measured with, on
    average."""

    measured_at: str
    machine: str
    model: ModelRef
    device: str
    threads: int
    rss_bytes: int
    batch_tokens: int
    text_tokens: float
    passes: dict[str, PassCost]
    writes: dict[str, WriteCost]

    def same_engine(self, other: Costs) -> bool:
        """Whether both were measured with one model on one machine."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("machine", "model", "device", "threads")
        )


def costs_file(settings: Settings) -> Path:
    return settings.data_dir / FILE


def read_costs(path: Path) -> Costs:
    """Raises ``ConfigError`` that says how to get them where there are none."""
    try:
        return Costs.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no costs were measured here; {HOW_TO_MEASURE}") from None
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} cannot be read as measured costs ({type(error).__name__}); {HOW_TO_MEASURE}"
        ) from error


def write_costs(path: Path, costs: Costs) -> Costs:
    """Keep ``costs``, and what was measured before of other tasks with the same model here; returns all."""
    try:
        before = read_costs(path)
    except ConfigError:
        before = costs
    if before.same_engine(costs):
        costs = costs.model_copy(
            update={"passes": before.passes | costs.passes, "writes": before.writes | costs.writes}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(costs.model_dump_json(indent=2) + "\n", "utf-8")
    unfinished.replace(path)
    return costs
