"""Keeps the problems that a model solves now and then: from those it always or never solves, a group learns nothing.

Every problem is asked `num_samples` times, and its share of right answers is its pass rate. OUT holds the problems
within the bounds; OUT.rates.jsonl every problem's rate, so that a killed run goes on, and other bounds ask nothing.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, cast

from pydantic import Field, model_validator

from sightline.cluster.placement import place_engine
from sightline.config import EngineAlone
from sightline.curation.journal import ANSWERED, Journal
from sightline.data import DataConfig, as_asked, load_rows
from sightline.data.writing import refuse_inputs, require_writable, write_problems
from sightline.errors import DataError, RunError
from sightline.models.config import ModelConfig
from sightline.progress import live_line
from sightline.prompts import Inputs, PromptSet, demand_of, load_inputs, prompts_of
from sightline.rewards.config import RewardConfig
from sightline.rewards.scorer import Scorer
from sightline.rollout.engine import Engine, Sampling
from sightline.types import Problem, Prompt, ScoredRollout

_LOGGER = logging.getLogger(__name__)


class PassRateConfig(EngineAlone):
    """Which problems are kept, how they are asked, and what answers."""

    low: float = Field(default=0.1, ge=0, le=1)
    """Smallest pass rate that is kept."""
    high: float = Field(default=0.9, ge=0, le=1)
    """Largest pass rate that is kept."""
    num_samples: int = Field(default=8, ge=1)
    """Answers per problem."""
    temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by it; take that of the training."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """An answer that reaches it is cut off; take that of the training."""
    seed: int = Field(default=0, ge=0)
    """The answers come from it and from the problems' ids."""
    max_sequences: int = Field(default=256, ge=1)
    """Answers that grow at the same time; fewer need less memory, more are faster."""
    problems_per_batch: int = Field(default=32, ge=1)
    """Problems that are asked together; when the command is killed, the batch under way is asked again."""
    reward: RewardConfig = RewardConfig()
    """Its accuracy component says which answers are right; one that can't be scored does not count."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRateReport:
    """What came of it."""

    num_problems: int  # that were asked, now or by an earlier call
    num_kept: int
    num_too_easy: int  # above the bounds
    num_too_hard: int  # below
    num_unscored: int  # none of whose answers could be scored
    num_left_out: int  # rows that were not asked: bad, filtered by the data section, or unfit for the model
    problems_by_passes: tuple[int, ...]  # scored problems with 0, 1 .. num_samples right answers
    num_answers: int  # sampled by this call
    seconds: float  # that sampling and scoring them took

    @property
    def answers_per_second(self) -> float:
        """Speed of this call; 0 if it had nothing to sample."""
        return self.num_answers / self.seconds if self.num_answers else 0.0

    def as_json(self) -> dict[str, object]:
        """All figures by name."""
        derived = {"problems_by_passes": list(self.problems_by_passes), "answers_per_second": self.answers_per_second}
        return {**asdict(self), **derived}

    def as_text(self) -> str:
        """Counts, and how many problems have how many right answers, for a terminal."""
        counts = [
            ("problems", self.num_problems),
            ("kept", self.num_kept),
            ("too easy", self.num_too_easy),
            ("too hard", self.num_too_hard),
            ("unscored", self.num_unscored),
            ("left out", self.num_left_out),
        ]
        most = max(*self.problems_by_passes, 1)
        return "\n".join(
            [
                *(f"{label:14}{number:>9,}" for label, number in counts),
                *(
                    f"{f'{passes} right':14}{number:>9,}  {'#' * -(-40 * number // most)}".rstrip()
                    for passes, number in enumerate(self.problems_by_passes)
                ),
                f"{self.num_answers:,} answers in {self.seconds:.1f} s, {self.answers_per_second:.1f} a second",
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _PassRate:
    """How a problem's answers were graded."""

    num_passes: int
    num_scored: int
    num_unscored: int

    @classmethod
    def of(cls, group: Sequence[ScoredRollout]) -> Self:
        verdicts = [answer.is_correct for answer in group if answer.is_correct is not None]
        return cls(num_passes=sum(verdicts), num_scored=len(verdicts), num_unscored=len(group) - len(verdicts))

    @classmethod
    def from_entry(cls, data: Mapping[str, object]) -> Self:
        """What `as_entry` gave."""
        passes, scored, unscored = (cast("int", data[name]) for name in ("num_passes", "num_samples", "num_unscored"))
        return cls(num_passes=passes, num_scored=scored, num_unscored=unscored)

    @property
    def value(self) -> float | None:
        """Right answers over scored ones; None if there are none."""
        return self.num_passes / self.num_scored if self.num_scored else None

    def columns(self) -> dict[str, object]:
        """The metadata of a problem."""
        return {"pass_rate": self.value, "num_passes": self.num_passes, "num_samples": self.num_scored}

    def as_entry(self, problem: Problem) -> dict[str, object]:
        """A line of the journal."""
        return {"id": problem.id, **self.columns(), "num_unscored": self.num_unscored}


def rates_path(out: Path) -> Path:
    """Where every problem's rate goes: `kept.rates.jsonl` for `kept.jsonl`."""
    return out.with_name(f"{out.stem}.rates.jsonl")


def filter_by_pass_rate(data: DataConfig, out: Path, *, model: ModelConfig, config: PassRateConfig) -> PassRateReport:
    """Ask a model the problems of `data` and write those within the bounds to `out`, .jsonl or .parquet.

    The problems are asked as the data section says; written is the row without its system prompt and template, with
    the metadata pass_rate, num_passes and num_samples (answers that were scored). After an interruption, and
    for other bounds, call it again: a batch whose rates are in OUT.rates.jsonl is not asked. An answer is a
    function of engine, seed, problem id and prompt, apart from the rounding of the batch that it is computed in.

    Raises DataError, and leaves `out` as it is, if no problem is within the bounds. Raises DataError, ModelError or
    ConfigError for what can't be used, a file that is read here and one that can't be written included, and RunError if
    `out` is not of an earlier call, or if the model or an option on which answers depend has changed.
    """
    require_writable(out)
    rates_file = rates_path(out)
    refuse_inputs(data, out, rates_file)
    if out.exists() and not rates_file.exists():
        raise RunError(f"{out} is there and {rates_file.name} is not, so it is of no earlier run; name another OUT")
    inputs = load_inputs(model, allow_urls=data.allow_urls)
    loaded = load_rows(data, inputs.images)
    rows = {problem.id: problem for problem in loaded.problems}
    prompts = prompts_of(inputs, as_asked(loaded, data), data, max_response_tokens=config.max_response_tokens)
    scorer = Scorer(config.reward, config.max_response_tokens, images=inputs.images)
    with (
        scorer.checked(prompts.problems),
        Journal(rates_file, identity=_identity(data, model, config)) as journal,
    ):
        num_answers, seconds = _ask(prompts, journal, inputs=inputs, scorer=scorer, config=config)
        rates = [_recorded(journal, problem) for problem in prompts.problems]
        report = _report(rates, config, num_rows=prompts.data.num_rows, num_answers=num_answers, seconds=seconds)
        if not report.num_kept:
            raise DataError(_nothing_kept(report, config, rates_file))
        kept = (
            replace(row, metadata={**row.metadata, **rate.columns()})
            for row, rate in zip((rows[problem.id] for problem in prompts.problems), rates, strict=True)
            if _verdict(rate, config) == "kept"
        )
        write_problems(out, kept, inputs.images)
    return report


def _nothing_kept(report: PassRateReport, config: PassRateConfig, rates_file: Path) -> str:
    return (
        f"no problem is within {config.low:g}..{config.high:g}: {report.num_too_easy} are too easy, "
        f"{report.num_too_hard} too hard, {report.num_unscored} unscored; name other bounds, which asks nothing again, "
        f"for the rates stay in {rates_file}"
    )


def _ask(
    prompts: PromptSet, journal: Journal, *, inputs: Inputs, scorer: Scorer, config: PassRateConfig
) -> tuple[int, float]:
    """Ask what is not in the journal; gives the number of sampled answers, and the seconds that they took.

    A batch that is there in part is asked again as a whole: then its answers are the same to the bit.
    """
    size = config.problems_per_batch
    batches = [range(first, min(first + size, len(prompts))) for first in range(0, len(prompts), size)]
    missing = [batch for batch in batches if not all(_is_recorded(journal, prompts.problems[i]) for i in batch)]
    if not missing:
        return 0, 0.0
    demand = demand_of([prompts], max_response_tokens=config.max_response_tokens)
    total_seconds = 0.0
    with (
        closing(
            place_engine(inputs, demand, engine=config.engine, vllm=config.vllm, max_sequences=config.max_sequences)
        ) as engine,
        live_line("pass rate", done=len(batches) - len(missing), total=len(batches)) as line,
    ):
        for batch in missing:
            begun = time.monotonic()
            for problem, rate in _ask_batch([prompts[index] for index in batch], engine, scorer, config):
                if not _is_recorded(journal, problem):
                    journal.append(ANSWERED, _key(problem), rate.as_entry(problem))
            seconds = time.monotonic() - begun
            total_seconds += seconds
            status = f"{len(batch) * config.num_samples / seconds:.1f} answers/s"
            line.advance(seconds, status)
            _LOGGER.info("%d of %d problems asked, %s", batch.stop, len(prompts), status)
    return sum(len(batch) for batch in missing) * config.num_samples, total_seconds


def _ask_batch(
    prompts: Sequence[Prompt], engine: Engine, scorer: Scorer, config: PassRateConfig
) -> list[tuple[Problem, _PassRate]]:
    sampling = Sampling(
        group_size=config.num_samples,
        temperature=config.temperature,
        max_response_tokens=config.max_response_tokens,
        seed=config.seed,
        stream="pass rate",
    )
    groups = scorer.score(engine.generate(prompts, sampling))
    return [(prompt.problem, _PassRate.of(group)) for prompt, group in zip(prompts, groups, strict=True)]


def _is_recorded(journal: Journal, problem: Problem) -> bool:
    """Whether there is a rate; where no answer could be graded, the next call asks again."""
    entry = journal.newest(ANSWERED, _key(problem))
    return entry is not None and _PassRate.from_entry(entry).num_scored > 0


def _recorded(journal: Journal, problem: Problem) -> _PassRate:
    entry = journal.newest(ANSWERED, _key(problem))
    assert entry is not None, f"{problem.place} was not asked"
    return _PassRate.from_entry(entry)


def _key(problem: Problem) -> str:
    """A hash of all that the rate depends on: a row that was edited under its id is asked again."""
    messages = [
        [message.role, *([part] if isinstance(part, str) else {"image": part.digest} for part in message.content)]
        for message in problem.messages
    ]
    content = [problem.id, messages, problem.answers, problem.answer_kind, problem.choices]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _identity(data: DataConfig, model: ModelConfig, config: PassRateConfig) -> dict[str, object]:
    """The options on which answers and their grades depend."""
    templates = {source.prompt_template: None for source in data.all_sources}
    system_prompts = {source.system_prompt: None for source in data.all_sources}
    return {
        "model": _name_of(model),
        "model.min_pixels": model.min_pixels,
        "model.max_pixels": model.max_pixels,
        "data.prompt_template": list(templates),
        "data.system_prompt": list(system_prompts),
        "num_samples": config.num_samples,
        "temperature": config.temperature,
        "max_response_tokens": config.max_response_tokens,
        "seed": config.seed,
        "reward": config.reward.model_dump(mode="json"),
    }


def _name_of(model: ModelConfig) -> str:
    """A hub name; of a folder its name with a hash of weights and settings: another run may have written it anew."""
    folder = Path(model.path)
    if not folder.is_dir():
        return model.path
    digest = hashlib.sha256()
    for pattern in ("model*.safetensors", "*.json", "*.jinja"):
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return f"{folder.resolve().name} ({digest.hexdigest()[:12]})"


def _verdict(rate: _PassRate, config: PassRateConfig) -> str:
    if rate.value is None:
        return "unscored"
    if rate.value < config.low:
        return "too hard"
    return "too easy" if rate.value > config.high else "kept"


def _report(
    rates: Sequence[_PassRate], config: PassRateConfig, *, num_rows: int, num_answers: int, seconds: float
) -> PassRateReport:
    verdicts = Counter(_verdict(rate, config) for rate in rates)
    passes = Counter(rate.num_passes for rate in rates if rate.num_scored)
    return PassRateReport(
        num_problems=len(rates),
        num_kept=verdicts["kept"],
        num_too_easy=verdicts["too easy"],
        num_too_hard=verdicts["too hard"],
        num_unscored=verdicts["unscored"],
        num_left_out=num_rows - len(rates),
        problems_by_passes=tuple(passes[number] for number in range(config.num_samples + 1)),
        num_answers=num_answers,
        seconds=seconds,
    )
