"""The parity gate before the first step: a few answers to prompts of each kind, scored by engine and learner."""

import logging
from collections.abc import Sequence

from sightline.batch import make_train_batch
from sightline.learner.learner import Learner
from sightline.learner.parity import KINDS, kind_of, mean_gaps
from sightline.prompts import PromptSet
from sightline.rollout.engine import Engine, Sampling
from sightline.types import Problem, ScoredRollout

PROMPTS_PER_KIND = 4
GROUP_SIZE = 2  # answers that share a prompt, as in training
MAX_RESPONSE_TOKENS = 32

logger = logging.getLogger(__name__)


def probe_parity(
    engine: Engine,
    learner: Learner,
    problems: PromptSet,
    *,
    temperature: float,
    max_response_tokens: int,
    seed: int,
) -> dict[str, float]:
    """Compare engine and learner on short answers to up to 4 prompts of each kind; give the metrics, log one line.

    Nothing is learned, and no other draw changes: the answers have a random stream of their own.
    Raises RunError if the two disagree beyond the learner's limit.
    """
    max_tokens = min(MAX_RESPONSE_TOKENS, max_response_tokens)
    sampling = Sampling(
        group_size=GROUP_SIZE,
        temperature=temperature,
        max_response_tokens=max_tokens,
        seed=seed,
        stream="parity probe",
    )
    groups = engine.generate([problems[index] for index in _chosen(problems.problems)], sampling)
    scored = [
        [
            ScoredRollout(rollout=rollout, rewards={}, reward=0.0, extracted_answer=None, is_correct=None)
            for rollout in group
        ]
        for group in groups
    ]
    batch = make_train_batch(scored, max_response_tokens=max_tokens, component_weights={})
    metrics = learner.check_engine(batch)
    gaps = ", ".join(f"{kind.replace('_', ' ')} {gap:.1e}" for kind, gap in mean_gaps(metrics).items())
    logger.info("engine and learner agree: %s nats on average (%d answers)", gaps, batch.num_answers)
    return metrics


def _chosen(problems: Sequence[Problem]) -> list[int]:
    """Up to 4 problems of each kind, by number, evenly spread over the data."""
    places: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for index, problem in enumerate(problems):
        places[kind_of(problem)].append(index)
    chosen: list[int] = []
    for indices in places.values():
        num_chosen = min(PROMPTS_PER_KIND, len(indices))
        chosen += [indices[number * len(indices) // num_chosen] for number in range(num_chosen)]
    return chosen
