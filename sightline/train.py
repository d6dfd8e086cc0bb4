"""THE LOOP: problems, prompts, rollouts, scored rollouts, a batch, new weights. Read `train` downwards."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sightline.batch import make_train_batch
from sightline.cluster.placement import Placement, place_training
from sightline.config import TrainRecipe
from sightline.data import ProblemOrder
from sightline.errors import RunError
from sightline.evaluate import Evaluations, load_heldout, make_evaluator
from sightline.learner.checkpoint import save_checkpoint
from sightline.metrics import PhaseTimer, step_line
from sightline.progress import live_line
from sightline.prompts import Inputs, PromptSet, load_inputs, load_prompts
from sightline.recipe import recipe_as_plain
from sightline.records import rollout_rows
from sightline.rewards.scorer import Scorer, reward_metrics
from sightline.rollout.engine import Engine, Sampling
from sightline.run_directory import RunDirectory
from sightline.types import Rollout, ScoredRollout

MAY_CHANGE = frozenset({"steps", "evaluation", "checkpoint"})  # between a run and its continuation

logger = logging.getLogger(__name__)


def train(recipe: TrainRecipe) -> Path:
    """Run a recipe to its last step, from its last checkpoint if there is one; give the run directory."""
    inputs = load_inputs(recipe.model)
    problems = load_prompts(inputs, recipe.data, max_response_tokens=recipe.rollout.max_response_tokens)
    heldout = load_heldout(inputs, recipe.evaluation, max_response_tokens=recipe.rollout.max_response_tokens)
    order = ProblemOrder(len(problems.prompts), recipe.seed)
    order.batch(0, recipe.rollout.prompts_per_step)  # refuses a batch larger than the data set before models load
    scorer, algorithm = Scorer(recipe.reward), recipe.algorithm
    run_folder = Path(recipe.output_dir)
    with RunDirectory.open(
        run_folder, recipe=recipe_as_plain(recipe), command="sightline train", may_change=MAY_CHANGE
    ) as run:
        checkpoint = run.latest_checkpoint()
        first_step = checkpoint.step if checkpoint else 0
        run.rewind(first_step)
        placement = place_training(recipe, inputs, checkpoint=checkpoint.path if checkpoint else None)
        engine, learner = placement.engine, placement.learner
        evaluations = _evaluations(recipe, inputs, heldout, engine, scorer, run)
        if first_step == 0:
            evaluations.at_start()
        with live_line("train", done=first_step, total=recipe.steps) as line:
            for step in range(first_step, recipe.steps):
                timer, counters = PhaseTimer(), _vision_counters(inputs, placement)
                indices = order.batch(step, recipe.rollout.prompts_per_step)
                prompts = [problems.prompts[index] for index in indices]
                with timer.phase("rollout"):
                    rollouts = engine.generate(prompts, _sampling(recipe, step))
                with timer.phase("reward"):
                    scored = scorer.score(rollouts)
                    metrics = reward_metrics(scored)
                    _stop_if_unscored(metrics, recipe.max_unscored_fraction)
                with timer.phase("update"):
                    batch = make_train_batch(scored)
                    batch = learner.add_logprobs(batch, algorithm)
                    batch = batch.with_advantages(algorithm.advantages(batch))
                    metrics |= learner.update(batch, algorithm)
                    engine.load_weights(learner.weights(), policy_version=learner.policy_version)

                done = step + 1
                metrics |= _work_metrics(rollouts, counters, _vision_counters(inputs, placement))
                metrics["epoch"] = order.epoch_of(done, recipe.rollout.prompts_per_step)
                _record(run, inputs, done, scored, metrics, timer)
                line.advance(sum(timer.seconds().values()), f"reward {metrics['reward/mean']:.3f}")
                evaluations.after_step(done)
                if done == recipe.steps or done % recipe.checkpoint.every_steps == 0:
                    save_checkpoint(run, learner, done, keep=recipe.checkpoint.keep)
        run.prune_checkpoints(recipe.checkpoint.keep)  # a kill may have come before the last one
        evaluations.at_end(recipe.steps)
    return run_folder


def _sampling(recipe: TrainRecipe, step: int) -> Sampling:
    return Sampling(
        group_size=recipe.rollout.group_size,
        temperature=recipe.rollout.temperature,
        max_response_tokens=recipe.rollout.max_response_tokens,
        seed=recipe.seed,
        stream=f"step {step}",
    )


def _stop_if_unscored(metrics: dict[str, float], limit: float) -> None:
    share = metrics["reward/unscored_fraction"]
    if share > limit:
        raise RunError(
            f"{share:.0%} of this step's answers could not be graded, more than max_unscored_fraction = {limit:.0%}; "
            "mend the reward and give the same command again, which goes on from the last checkpoint"
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
    scored: Sequence[Sequence[ScoredRollout]],
    metrics: dict[str, float],
    timer: PhaseTimer,
) -> None:
    """Write the step's rollouts, pictures and metrics, and one line for the person."""
    for group in scored:
        for image in group[0].rollout.prompt.images:
            if not run.has_image(image.digest):
                run.save_image(image.digest, inputs.images.open(image))
    run.write_rollouts(step, rollout_rows(step, scored))
    times = timer.metrics()
    metrics = metrics | times | {"tokens/per_second": metrics["tokens/response"] / times["time/rollout_seconds"]}
    run.append_metrics(step, metrics)
    logger.info(step_line({"step": step, **metrics}))


def _vision_counters(inputs: Inputs, placement: Placement) -> tuple[int, int]:
    return inputs.image_inputs.num_preprocessed, placement.num_vision_passes()


def _work_metrics(
    rollouts: Sequence[Sequence[Rollout]], before: tuple[int, int], after: tuple[int, int]
) -> dict[str, float]:
    prompts = [group[0].prompt for group in rollouts]
    num_images = len({image.digest for prompt in prompts for image in prompt.images})
    metrics = {
        "tokens/prompt": float(sum(len(prompt.token_ids) for prompt in prompts)),
        "tokens/response": float(sum(len(rollout.token_ids) for group in rollouts for rollout in group)),
    }
    if num_images:
        metrics["vision/preprocessings_per_image"] = (after[0] - before[0]) / num_images
        metrics["vision/passes_per_image"] = (after[1] - before[1]) / num_images
    return metrics
