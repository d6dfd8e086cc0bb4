"""`--dry-run`: resolve a recipe, load and check its data, say what the run will need; train nothing.

The memory is an estimate from shapes: weights, gradients and AdamW in float32, the packed row's activations, one
chunk of logits, and the keys and values of the answers that grow at the same time. vLLM takes its own beside that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from sightline.algorithms.critic import CriticConfig
from sightline.cluster.engine_plan import MIB, Machine, plan_fine_tuning_engine, plan_training_engine
from sightline.cluster.placement import check_critic_fits, critic_model
from sightline.config import LearnerConfig, SftRecipe, TrainRecipe
from sightline.evaluate import allows_urls, load_heldout
from sightline.models.config import ModelConfig
from sightline.models.loading import empty_model, read_config
from sightline.models.lora import num_adapter_weights
from sightline.prompts import (
    Inputs,
    PromptSet,
    TokenCounts,
    check_solutions,
    count_tokens,
    demand_of,
    load_inputs,
    load_prompts,
)
from sightline.recipe import recipe_as_plain
from sightline.rewards.config import RewardConfig
from sightline.rewards.scorer import Scorer
from sightline.rollout.engine_settings import EngineSettings
from sightline.rollout.vllm_version import require_vllm

GIB = 2**30
MAX_LISTED = 20
BYTES_A_WEIGHT = 4
BYTES_A_VALUE = {"float32": 4, "bfloat16": 2}
ACTIVATION_BYTES_A_TOKEN_LAYER = 34  # times hidden size: arXiv:2205.05198, equation 1, without the attention matrix


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the memory of a model depends on."""

    num_parameters: int
    num_learning: int
    num_layers: int
    hidden_size: int
    vocabulary_size: int
    cache_values_per_token: int  # keys and values


def plan_training(recipe: TrainRecipe, *, machine: Machine | None = None) -> str:
    """What `sightline train` would do on this machine, as text for a terminal."""
    machine = machine or Machine.here()
    inputs = load_inputs(recipe.model, allow_urls=allows_urls(recipe.data, recipe.evaluation))
    problems = load_prompts(inputs, recipe.data, max_response_tokens=recipe.rollout.max_response_tokens)
    order = problems.order(recipe.data, recipe.seed, batch_size=recipe.rollout.prompts_per_step)
    lines = _data_lines("training data", problems)
    heldout = load_heldout(inputs, recipe.evaluation, problems, max_response_tokens=recipe.rollout.max_response_tokens)
    lines += _heldout_lines(heldout)
    asked = [problems] if heldout is None else [problems, heldout]
    demand = demand_of(asked, max_response_tokens=recipe.rollout.max_response_tokens)
    engine = plan_training_engine(recipe, inputs, demand, machine=machine)
    lines.append(_rewards_line(recipe.reward, inputs, problems, recipe.rollout.max_response_tokens))
    epochs = order.epoch_of(recipe.steps * recipe.rollout.prompts_per_step)
    updates = recipe.learner.updates_per_step
    answers = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    lines.append(
        f"steps: {recipe.steps} of {recipe.rollout.prompts_per_step} prompts x {recipe.rollout.group_size} answers "
        f"= {answers} answers, {updates} update(s) each; {epochs:.2f} epochs"
    )
    needs = recipe.algorithm.needs(updates)
    shapes = _shapes(recipe.model, inputs)
    counts = count_tokens(problems)
    critic = recipe.algorithm.critic_config
    critic_shapes = _critic_shapes(recipe.model, critic, inputs) if critic else None
    with_copy = needs.reference_logprobs and recipe.model.lora is None
    lines += _memory_lines(shapes, recipe.learner, with_reference=with_copy, critic=critic_shapes)
    if needs.reference_logprobs and not with_copy:
        lines.append("  reference: the model without its adapter, no copy")
    cache_bytes = _num_cached(recipe, counts) * shapes.cache_values_per_token * _bytes_a_cached_value(engine, machine)
    lines.append(f"  keys and values while sampling: {cache_bytes / GIB:.2f} GiB at most")
    lines += _engine_lines(engine, inputs, machine)
    return "\n".join([*lines, "", "resolved recipe:", yaml.safe_dump(recipe_as_plain(recipe), sort_keys=False)])


def _rewards_line(reward: RewardConfig, inputs: Inputs, problems: PromptSet, max_response_tokens: int) -> str:
    """What is rewarded; functions are loaded and servers asked whether they are there, as before a run."""
    with Scorer(reward, max_response_tokens, images=inputs.images).checked(problems.problems):
        parts = [f"{weight:g} {label}" for label, weight in reward.weights().items()]
    return f"rewards: {' + '.join(parts)}" + (", with an LLM judge" if reward.judge else "")


def plan_fine_tuning(recipe: SftRecipe, *, machine: Machine | None = None) -> str:
    """What `sightline sft` would do on this machine, as text for a terminal."""
    machine = machine or Machine.here()
    inputs = load_inputs(recipe.model, allow_urls=allows_urls(recipe.data, recipe.evaluation))
    problems = load_prompts(inputs, recipe.data, max_response_tokens=recipe.max_response_tokens)
    lengths_P = check_solutions(inputs.family, problems.problems, max_tokens=recipe.max_response_tokens)
    order = problems.order(recipe.data, recipe.seed, batch_size=recipe.batch_size)
    lines = _data_lines("training data", problems)
    lines.append(f"solutions: {lengths_P.mean():.0f} tokens on average, {lengths_P.max()} at most")
    heldout = load_heldout(inputs, recipe.evaluation, problems, max_response_tokens=recipe.max_response_tokens)
    lines += _heldout_lines(heldout)
    demand = demand_of([problems if heldout is None else heldout], max_response_tokens=recipe.max_response_tokens)
    engine = plan_fine_tuning_engine(recipe, inputs, demand, machine=machine)
    epochs = order.epoch_of(recipe.steps * recipe.batch_size)
    lines.append(f"steps: {recipe.steps} of {recipe.batch_size} solutions; {epochs:.2f} epochs")
    lines += _memory_lines(_shapes(recipe.model, inputs), recipe.learner, with_reference=False)
    if heldout is not None:
        lines += _engine_lines(engine, inputs, machine)
    return "\n".join([*lines, "", "resolved recipe:", yaml.safe_dump(recipe_as_plain(recipe), sort_keys=False)])


def _heldout_lines(heldout: PromptSet | None) -> list[str]:
    return [] if heldout is None else _data_lines("held-out data", heldout)


def _data_lines(label: str, problems: PromptSet) -> list[str]:
    counts, data = count_tokens(problems), problems.data
    digests = {image.digest for problem in problems.problems for image in problem.images}
    left_out = [f"{number} left out by {name}" for name, number in data.left_out.items()]
    if problems.num_too_long:
        left_out.append(f"{problems.num_too_long} left out by max_prompt_tokens")
    numbers = [
        f"{data.num_rows} rows",
        f"{len(problems)} usable",
        f"{len(data.bad_rows)} bad",
        f"{len(problems.unusable)} not fit for the model",
        *left_out,
    ]
    lines = [
        f"{label}: {', '.join(numbers)}; {len(digests)} distinct images",
        f"  prompt: {counts.mean_prompt:.0f} tokens on average, {counts.max_prompt} at most",
    ]
    if digests:
        lines.append(f"  image: {counts.mean_per_image:.0f} tokens on average, {counts.max_per_image} at most")
    reasons = [*(row.message for row in data.bad_rows), *problems.unusable]
    lines += [f"  bad: {reason}" for reason in reasons[:MAX_LISTED]]
    if len(reasons) > MAX_LISTED:
        lines.append(f"  and {len(reasons) - MAX_LISTED} more")
    return lines


def _shapes(model: ModelConfig, inputs: Inputs) -> Shapes:
    empty = empty_model(model)
    num_parameters = _num_parameters([empty])
    num_learning = num_parameters
    if model.lora is not None:
        num_learning = num_adapter_weights(empty, model.lora)
        num_parameters += num_learning
    elif model.freeze_vision:
        num_learning -= _num_parameters(inputs.family.vision_modules(empty))
    text: Any = empty.config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shapes(
        num_parameters=num_parameters,
        num_learning=num_learning,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocabulary_size=text.vocab_size,
        cache_values_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * head_size,
    )


def _critic_shapes(model: ModelConfig, critic: CriticConfig, inputs: Inputs) -> Shapes:
    source = critic_model(model, critic)
    check_critic_fits(read_config(source), read_config(model), source.path)
    return _shapes(source, inputs)


def _num_parameters(modules: Sequence[torch.nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _memory_lines(
    shapes: Shapes, learner: LearnerConfig, *, with_reference: bool, critic: Shapes | None = None
) -> list[str]:
    others = [shapes] * with_reference + ([critic] if critic else [])
    weights = BYTES_A_WEIGHT * (shapes.num_parameters + sum(other.num_parameters for other in others))
    names = ["weights"] + ["reference"] * with_reference + ["critic"] * (critic is not None)
    num_learning = shapes.num_learning + (critic.num_learning if critic else 0)
    optimizer = 3 * BYTES_A_WEIGHT * num_learning  # gradients and AdamW's two means
    tokens = learner.tokens_per_microbatch
    activations = max(_activation_bytes(each, learner) for each in (shapes, critic or shapes))  # one after the other
    logits = 3 * BYTES_A_WEIGHT * learner.logprob_chunk_tokens * shapes.vocabulary_size
    lines = [f"model: {shapes.num_parameters:,} parameters, {shapes.num_learning:,} learn"]
    if critic:
        lines.append(f"critic: {critic.num_parameters:,} parameters, {critic.num_learning:,} learn")
    return [
        *lines,
        "memory, estimated:",
        f"  {', '.join([*names[:-2], ' and '.join(names[-2:])])}: {weights / GIB:.2f} GiB",
        f"  gradients and AdamW: {optimizer / GIB:.2f} GiB",
        f"  activations of a full row of {tokens} tokens: {activations / GIB:.2f} GiB",
        f"  logits of one chunk: {logits / GIB:.2f} GiB",
    ]


def _activation_bytes(shapes: Shapes, learner: LearnerConfig) -> int:
    layer = shapes.hidden_size * ACTIVATION_BYTES_A_TOKEN_LAYER
    if learner.activation_checkpointing:
        return learner.tokens_per_microbatch * (shapes.num_layers * shapes.hidden_size * BYTES_A_WEIGHT + layer)
    return learner.tokens_per_microbatch * shapes.num_layers * layer


def _num_cached(recipe: TrainRecipe, counts: TokenCounts) -> int:
    """Tokens whose keys and values are there at the same time."""
    rollout = recipe.rollout
    prompts = min(rollout.prompts_per_step, max(1, rollout.max_sequences // rollout.group_size))
    answers = prompts * rollout.group_size
    return prompts * counts.max_prompt + answers * rollout.max_response_tokens


def _bytes_a_cached_value(engine: EngineSettings | None, machine: Machine) -> int:
    if engine is not None:
        return BYTES_A_VALUE[engine.host.dtype]
    return 2 if machine.num_gpus else 4


def _engine_lines(engine: EngineSettings | None, inputs: Inputs, machine: Machine) -> list[str]:
    """Which engine answers, what it takes beside the learner, and how weights reach it."""
    if engine is None:
        return ["engine: transformers, with the learner's own model"]
    host, version = engine.host, require_vllm(machine.device, find=machine.find_vllm).version
    places = [" and ".join(f"GPU {gpu}" for gpu in copy) or "the CPU" for copy in engine.devices]
    weights = BYTES_A_VALUE[host.dtype] * _num_parameters([empty_model(inputs.model)]) / host.tensor_parallel_size
    lines = [f"engine: vllm {version} in {host.dtype} on {'; '.join(places)}", f"  weights: {weights / GIB:.2f} GiB"]
    if machine.num_gpus:
        lines[-1] += " of each GPU"
    if host.cache_bytes is not None:
        lines.append(f"  keys and values: {host.cache_bytes / GIB:.2f} GiB")
    else:
        lines.append(f"  weights, keys and values: {host.memory_fraction:.0%} of each GPU's memory")
    if host.lora_rank is None:
        lines.append(f"  weights travel by {engine.transfer}, in pieces of {engine.bucket_bytes // MIB} MiB")
    else:
        lines.append(f"  the adapter, of rank {host.lora_rank}, is handed over as files")
    if host.sleep_level:
        lines.append(f"  sleeps at level {host.sleep_level} while the learner works")
    return lines
