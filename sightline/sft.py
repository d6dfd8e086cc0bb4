"""Supervised fine-tuning on rows with solutions: the cold start, with the data path and learner of training."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from sightline.algorithms.supervised import Supervised
from sightline.batch import TrainBatch
from sightline.cluster.engine_plan import plan_fine_tuning_engine
from sightline.cluster.placement import place_fine_tuning
from sightline.config import SftRecipe
from sightline.evaluate import Evaluations, allows_urls, load_heldout, make_evaluator
from sightline.learner.checkpoint import open_run, save_checkpoint
from sightline.metrics import PhaseTimer, step_line
from sightline.progress import live_line
from sightline.prompts import Inputs, PromptSet, check_solutions, demand_of, load_inputs, load_prompts, solution_ids
from sightline.recipe import recipe_as_plain
from sightline.rewards.scorer import Scorer
from sightline.rollout.engine import Engine
from sightline.run_directory import RunDirectory
from sightline.types import Prompt

MAY_CHANGE = frozenset({"steps", "evaluation", "checkpoint", "engine", "vllm"})

logger = logging.getLogger(__name__)


def fine_tune(recipe: SftRecipe) -> Path:
    """Run a recipe to its last step, from its last checkpoint if there is one; give the run directory."""
    inputs = load_inputs(recipe.model, allow_urls=allows_urls(recipe.data, recipe.evaluation))
    problems = load_prompts(inputs, recipe.data, max_response_tokens=recipe.max_response_tokens)
    check_solutions(inputs.family, problems.problems, max_tokens=recipe.max_response_tokens)
    heldout = load_heldout(inputs, recipe.evaluation, problems, max_response_tokens=recipe.max_response_tokens)
    order = problems.order(recipe.data, recipe.seed, batch_size=recipe.batch_size)
    answered = problems if heldout is None else heldout  # the engine serves evaluation
    demand = demand_of([answered], max_response_tokens=recipe.max_response_tokens)
    planned_engine = plan_fine_tuning_engine(recipe, inputs, demand)
    algorithm, scorer = Supervised(), Scorer(recipe.reward, recipe.max_response_tokens, images=inputs.images)
    with (
        scorer.checked(heldout.problems if heldout else ()),
        open_run(
            Path(recipe.output_dir), recipe=recipe_as_plain(recipe), command="sightline sft", may_change=MAY_CHANGE
        ) as (run, start),
        place_fine_tuning(recipe, inputs, planned_engine, checkpoint=start.checkpoint) as placement,
    ):
        learner = placement.learner
        evaluations = _evaluations(recipe, inputs, heldout, placement.engine, scorer, run)
        if start.step == 0:
            evaluations.at_start()
        with live_line("sft", done=start.step, total=recipe.steps) as line:
            for step in range(start.step, recipe.steps):
                timer = PhaseTimer()
                prompts = [problems[index] for index in order.batch(step, recipe.batch_size)]
                # The next step's pictures are preprocessed while this one runs.
                if step + 1 < recipe.steps:
                    placement.prefetch(problems.images_of(order.batch(step + 1, recipe.batch_size)))
                with timer.phase("update"):
                    batch = solution_batch(
                        prompts,
                        [solution_ids(inputs.family, prompt.problem) for prompt in prompts],
                        max_response_tokens=recipe.max_response_tokens,
                    )
                    batch = algorithm.assign_credit(learner.prepare(batch, algorithm))
                    metrics = learner.update(batch, algorithm)
                done = step + 1
                metrics = metrics | problems.source_shares([each.problem for each in prompts]) | timer.metrics()
                run.append_metrics(done, metrics)
                logger.info(step_line({"step": done, **metrics}))
                line.advance(sum(timer.seconds().values()), f"loss {metrics['loss/sft']:.3f}")
                if done == recipe.steps or evaluations.is_due(done):  # not at every step: the way may be long
                    placement.engine.load_weights(learner.weights(), policy_version=learner.policy_version)
                evaluations.after_step(done)
                if done == recipe.steps or done % recipe.checkpoint.every_steps == 0:
                    save_checkpoint(run, learner, done, num_drawn=done * recipe.batch_size, keep=recipe.checkpoint.keep)
        run.prune_checkpoints(recipe.checkpoint.keep)  # a kill may have come before the last one
        evaluations.at_end(recipe.steps)
    return Path(recipe.output_dir)


def solution_batch(
    prompts: Sequence[Prompt], solutions: Sequence[Sequence[int]], *, max_response_tokens: int
) -> TrainBatch:
    """Given token ids as answers, one for each prompt; nothing was sampled."""
    lengths_B = torch.tensor([len(ids) for ids in solutions])
    num_tokens = int(lengths_B.sum())
    return TrainBatch(
        prompts=tuple(prompts),
        prompt_of_answer_B=torch.arange(len(prompts)),
        answer_lengths_B=lengths_B,
        rewards_B=torch.ones(len(prompts)),
        component_rewards_BK=torch.ones(len(prompts), 1),
        component_weights=(1.0,),
        is_truncated_B=torch.zeros(len(prompts), dtype=torch.bool),
        max_response_tokens=max_response_tokens,
        token_ids_N=torch.tensor([token for ids in solutions for token in ids]),
        response_mask_N=torch.ones(num_tokens, dtype=torch.bool),
        sampling_logprobs_N=None,
    )


def _evaluations(
    recipe: SftRecipe, inputs: Inputs, heldout: PromptSet | None, engine: Engine, scorer: Scorer, run: RunDirectory
) -> Evaluations:
    evaluator = make_evaluator(
        inputs,
        recipe.evaluation,
        heldout,
        engine=engine,
        scorer=scorer,
        temperature=1.0,
        max_response_tokens=recipe.max_response_tokens,
        seed=recipe.seed,
    )
    return Evaluations(evaluator, recipe.evaluation.every_steps, run)
