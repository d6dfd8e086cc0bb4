"""THE LOOP: problems, prompts, rollouts, scored rollouts, a batch, new weights. Read `train` downwards."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sightline.alarms import Alarms
from sightline.batch import TrainBatch, make_train_batch
from sightline.cluster.engine_plan import plan_training_engine
from sightline.cluster.placement import Placement, place_training
from sightline.config import TrainRecipe
from sightline.data import ProblemOrder
from sightline.errors import RunError
from sightline.evaluate import Evaluations, allows_urls, load_heldout, make_evaluator
from sightline.learner.checkpoint import Start, open_run, save_checkpoint
from sightline.metrics import PhaseTimer, mean, step_line
from sightline.parity_probe import probe_parity
from sightline.progress import live_line
from sightline.prompts import Demand, Inputs, PromptSet, demand_of, load_inputs, load_prompts
from sightline.recipe import recipe_as_plain
from sightline.records import rollout_rows
from sightline.rewards.reward_metrics import reward_metrics
from sightline.rewards.scorer import Scorer
from sightline.rollout.engine import Engine, Sampling
from sightline.run_directory import RunDirectory
from sightline.selection import GroupSelection
from sightline.types import ImageRef, ScoredRollout

_MENDABLE = ("urls", "token_variable", "timeout_seconds", "num_retries", "retry_seconds", "batch_size", "processes")
MAY_CHANGE = frozenset(  # between a run and its continuation
    {"steps", "evaluation", "checkpoint", "alarm_window_steps", "reward.judge", "max_unscored_fraction"}
    | {"engine", "vllm"}
    | {f"reward.grading.{key}" for key in ("processes", "timeout_seconds", "memory_mib")}
    | {f"reward.components.*.{key}" for key in _MENDABLE}
)

_REASONS_NAMED = 3

logger = logging.getLogger(__name__)


def train(recipe: TrainRecipe) -> Path:
    """Run a recipe to its last step, from its last checkpoint if there is one; give the run directory."""
    inputs = load_inputs(recipe.model, allow_urls=allows_urls(recipe.data, recipe.evaluation))
    problems = load_prompts(inputs, recipe.data, max_response_tokens=recipe.rollout.max_response_tokens)
    heldout = load_heldout(inputs, recipe.evaluation, problems, max_response_tokens=recipe.rollout.max_response_tokens)
    order = problems.order(recipe.data, recipe.seed, batch_size=recipe.rollout.prompts_per_step)
    planned_engine = plan_training_engine(recipe, inputs, _demand(recipe, problems, heldout))
    with (
        _scorer(recipe, inputs, problems, heldout) as scorer,
        open_run(
            Path(recipe.output_dir), recipe=recipe_as_plain(recipe), command="sightline train", may_change=MAY_CHANGE
        ) as (run, start),
        place_training(recipe, inputs, planned_engine, checkpoint=start.checkpoint) as placement,
    ):
        engine, learner, algorithm = placement.engine, placement.learner, recipe.algorithm
        alarms = Alarms(recipe.alarm_window_steps, run.read_metrics())
        evaluations = _evaluations(recipe, inputs, heldout, engine, scorer, run)
        num_drawn = start.num_drawn
        _probe_parity(recipe, start, placement, problems)
        if start.step == 0:
            evaluations.at_start()
        with live_line("train", done=start.step, total=recipe.steps) as line:
            for step in range(start.step, recipe.steps):
                timer, counters = PhaseTimer(), _vision_counters(inputs, placement)
                selection = GroupSelection(algorithm, recipe.rollout.prompts_per_step)
                while num_missing := selection.num_missing:  # once, unless groups of equal rewards are replaced
                    prompts = [problems[index] for index in order.take(num_drawn, num_missing)]
                    num_drawn += num_missing
                    placement.prefetch(_upcoming_images(recipe, step, problems, order, num_drawn))
                    with timer.phase("rollout"):
                        rollouts = engine.generate(prompts, _sampling(recipe, step, selection.num_rounds))
                    with timer.phase("reward"):
                        selection.add(scorer.score(rollouts))
                    _stop_if_unscored(run, step, selection.scored, recipe.max_unscored_fraction)
                greedy = _greedy_answers(recipe, run, step, selection, engine, scorer, timer)
                metrics = reward_metrics(selection.scored) | selection.metrics() | _greedy_metrics(greedy)
                with timer.phase("update"):
                    batch = _train_batch(recipe, selection, greedy)
                    batch = learner.prepare(batch, algorithm)
                    batch = algorithm.assign_credit(batch)
                    metrics |= learner.update(batch, algorithm)
                    engine.load_weights(learner.weights(), policy_version=learner.policy_version)
                metrics |= engine.metrics()

                done = step + 1
                metrics |= _work_metrics(selection.scored, counters, _vision_counters(inputs, placement))
                metrics |= _source_metrics(problems, selection.scored) | {"epoch": order.epoch_of(num_drawn)}
                _record(run, inputs, done, selection, metrics, timer, alarms)
                line.advance(sum(timer.seconds().values()), f"reward {metrics['reward/mean']:.3f}")
                evaluations.after_step(done)
                if done == recipe.steps or done % recipe.checkpoint.every_steps == 0:
                    save_checkpoint(run, learner, done, num_drawn=num_drawn, keep=recipe.checkpoint.keep)
        run.prune_checkpoints(recipe.checkpoint.keep)  # a kill may have come before the last one
        evaluations.at_end(recipe.steps)
    return Path(recipe.output_dir)


def _scorer(recipe: TrainRecipe, inputs: Inputs, problems: PromptSet, heldout: PromptSet | None) -> Scorer:
    """What grades the answers to these problems. Raises ConfigError, DataError or RunError if it can't."""
    scorer = Scorer(recipe.reward, recipe.rollout.max_response_tokens, images=inputs.images)
    return scorer.checked([*problems.problems, *(heldout.problems if heldout else ())])


def _demand(recipe: TrainRecipe, problems: PromptSet, heldout: PromptSet | None) -> Demand:
    """What the engine must have room for."""
    prompt_sets = [problems] if heldout is None else [problems, heldout]
    return demand_of(prompt_sets, max_response_tokens=recipe.rollout.max_response_tokens)


def _probe_parity(recipe: TrainRecipe, start: Start, placement: Placement, problems: PromptSet) -> None:
    """Raise RunError if engine and learner disagree before the first step to come, which nothing of this reaches."""
    if start.step >= recipe.steps:
        return
    probe_parity(
        placement.engine,
        placement.learner,
        problems,
        temperature=recipe.rollout.temperature,
        max_response_tokens=recipe.rollout.max_response_tokens,
        seed=recipe.seed,
    )
    for encoder in placement.encoders:
        encoder.forget()  # steps count their passes, and features may depend on the pictures that came with them


def _upcoming_images(
    recipe: TrainRecipe, step: int, problems: PromptSet, order: ProblemOrder, num_drawn: int
) -> list[ImageRef]:
    """The pictures of the next step, which are preprocessed while this one runs."""
    if step + 1 == recipe.steps:
        return []
    return problems.images_of(order.take(num_drawn, recipe.rollout.prompts_per_step))


def _sampling(recipe: TrainRecipe, step: int, generation_round: int) -> Sampling:
    again = f" round {generation_round}" if generation_round else ""  # else a prompt drawn twice would answer alike
    return Sampling(
        group_size=recipe.rollout.group_size,
        temperature=recipe.rollout.temperature,
        max_response_tokens=recipe.rollout.max_response_tokens,
        seed=recipe.seed,
        stream=f"step {step}{again}",
    )


def _greedy_answers(
    recipe: TrainRecipe,
    run: RunDirectory,
    step: int,
    selection: GroupSelection,
    engine: Engine,
    scorer: Scorer,
    timer: PhaseTimer,
) -> list[ScoredRollout] | None:
    """Each chosen prompt's most probable answer with its grade, for algorithms that compare with it."""
    if not recipe.algorithm.needs(recipe.learner.updates_per_step).greedy_answers:
        return None
    prompts = [group[0].rollout.prompt for group in selection.chosen]
    sampling = replace(_sampling(recipe, step, 0), group_size=1, temperature=0.0)
    with timer.phase("rollout"):
        rollouts = engine.generate(prompts, sampling)
    with timer.phase("reward"):
        scored = scorer.score(rollouts)
    _stop_if_unscored(run, step, scored, recipe.max_unscored_fraction)
    return [group[0] for group in scored]


def _greedy_metrics(greedy: Sequence[ScoredRollout] | None) -> dict[str, float]:
    if greedy is None:
        return {}
    rewards = [answer.reward for answer in greedy if answer.reward is not None]
    return {"greedy/reward": mean(rewards), "greedy/unscored_fraction": 1 - len(rewards) / len(greedy)}


def _train_batch(recipe: TrainRecipe, selection: GroupSelection, greedy: Sequence[ScoredRollout] | None) -> TrainBatch:
    return make_train_batch(
        selection.chosen,
        max_response_tokens=recipe.rollout.max_response_tokens,
        component_weights=recipe.reward.weights(),
        greedy=greedy,
    )


def _stop_if_unscored(run: RunDirectory, step: int, groups: Sequence[Sequence[ScoredRollout]], limit: float) -> None:
    """Raise RunError, with the commonest reasons, if too many answers have no reward; their rows are kept."""
    reasons = [answer.unscored_reason for group in groups for answer in group if answer.reward is None]
    share = len(reasons) / sum(len(group) for group in groups)
    if share <= limit:
        return
    run.write_rollouts(step + 1, rollout_rows(step + 1, groups, is_learned_from=[False] * len(groups)))
    common = "; ".join(f"{number} x {reason}" for reason, number in Counter(reasons).most_common(_REASONS_NAMED))
    raise RunError(
        f"{share:.0%} of this step's answers could not be graded, more than max_unscored_fraction = {limit:.0%}: "
        f"{common} (all are in rollouts/step_{step + 1:06d}.jsonl); mend the reward and give the same command again, "
        "which goes on from the last checkpoint"
    )


def _evaluations(
    recipe: TrainRecipe,
    inputs: Inputs,
    heldout: PromptSet | None,
    engine: Engine,
    scorer: Scorer,
    run: RunDirectory,
) -> Evaluations:
    evaluator = make_evaluator(
        inputs,
        recipe.evaluation,
        heldout,
        engine=engine,
        scorer=scorer,
        temperature=recipe.rollout.temperature,
        max_response_tokens=recipe.rollout.max_response_tokens,
        seed=recipe.seed,
    )
    return Evaluations(evaluator, recipe.evaluation.every_steps, run)


def _record(
    run: RunDirectory,
    inputs: Inputs,
    step: int,
    selection: GroupSelection,
    metrics: dict[str, float],
    timer: PhaseTimer,
    alarms: Alarms,
) -> None:
    """Write the step's rollouts, pictures and metrics, and one line for the person."""
    for group in selection.scored:
        for image in group[0].rollout.prompt.images:
            if not run.has_image(image.digest):
                run.save_image(image.digest, inputs.images.open(image))
    run.write_rollouts(step, rollout_rows(step, selection.scored, is_learned_from=selection.is_chosen))
    times = timer.metrics()
    metrics = metrics | times | {"tokens/per_second": metrics["tokens/response"] / times["time/rollout_seconds"]}
    metrics |= alarms.after_step(metrics, run.read_evaluations())
    run.append_metrics(step, metrics)
    logger.info(step_line({"step": step, **metrics}))


def _source_metrics(problems: PromptSet, scored: Sequence[Sequence[ScoredRollout]]) -> dict[str, float]:
    """Share of the drawn problems and mean reward of each source, where there are several."""
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    for group in scored:
        rewards[group[0].rollout.prompt.problem.source] += [each.reward for each in group if each.reward is not None]
    means = {f"data/{label}/reward": mean(rewards[source]) for source, label in problems.source_labels.items()}
    return problems.source_shares([group[0].rollout.prompt.problem for group in scored]) | means


def _vision_counters(inputs: Inputs, placement: Placement) -> tuple[int, int]:
    return inputs.image_inputs.num_preprocessed, placement.num_vision_passes()


def _work_metrics(
    scored: Sequence[Sequence[ScoredRollout]], before: tuple[int, int], after: tuple[int, int]
) -> dict[str, float]:
    prompts = [group[0].rollout.prompt for group in scored]
    num_images = len({image.digest for prompt in prompts for image in prompt.images})
    metrics = {
        "tokens/prompt": float(sum(len(prompt.token_ids) for prompt in prompts)),
        "tokens/response": float(sum(len(answer.rollout.token_ids) for group in scored for answer in group)),
    }
    if num_images:
        metrics["vision/preprocessings_per_image"] = (after[0] - before[0]) / num_images
        metrics["vision/passes_per_image"] = (after[1] - before[1]) / num_images
    return metrics
