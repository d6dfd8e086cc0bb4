"""The sections of recipes: frozen models; each default stands here or in the file that owns its section."""

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from sightline.algorithms import AlgorithmConfig, Grpo
from sightline.data import DataConfig
from sightline.models.config import ModelConfig
from sightline.rewards.config import RewardConfig
from sightline.section import Section


class RolloutConfig(Section):
    """How answers are sampled."""

    prompts_per_step: int = Field(default=16, ge=1)
    """Problems per training step."""
    group_size: int = Field(default=8, ge=1)
    """Answers per problem."""
    temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by it, in sampling and in training alike."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """An answer that reaches it is cut off and counts as truncated."""
    max_sequences: int = Field(default=256, ge=1)
    """Answers that grow at the same time; fewer need less memory, more are faster."""


EngineName = Literal["auto", "transformers", "vllm"]
LEARNERS_VLLM_KEYS = (
    "sleep_level",
    "weight_transfer",
    "bucket_mib",
    "lora",
)  # that say how engine and learner live together


class VllmConfig(Section):
    """How vLLM runs where it is the engine."""

    devices: tuple[int, ...] | None = Field(default=None, min_length=1)
    """GPUs of the engine, by number; None: the first, which it shares with the learner. On a CPU leave it out."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that hold one copy of the model; more `devices` than that hold further copies, among which prompts are
    dealt. Each copy grows as many answers at the same time as the recipe says."""
    gpu_memory_fraction: float = Field(default=0.4, gt=0, le=1)
    """Share of each GPU that the engine takes, for weights and for keys and values. On a CPU, and where `cache_gib`
    is given, it does not count."""
    cache_gib: float | None = Field(default=None, gt=0)
    """Memory for keys and values; None: what `gpu_memory_fraction` leaves, and 1 GiB on a CPU."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the engine's weights; auto: bfloat16 on a GPU, float32 on a CPU."""
    sleep_level: Literal[0, 1, 2] | None = None
    """What the engine gives back while the learner works: 0 nothing, 1 keys and values (weights move to the CPU's
    memory), 2 weights as well, all of which are sent again. None: 1 where it shares the learner's GPU; elsewhere it
    stays 0."""
    weight_transfer: Literal["auto", "shared_memory", "cuda_ipc", "nccl"] = "auto"
    """How weights reach the engine; auto: cuda_ipc on the learner's own GPU, nccl on other GPUs, shared_memory on a
    CPU, and where the learner's GPU is one of several."""
    bucket_mib: int = Field(default=256, ge=1)
    """Weights are sent in pieces of at most this size, in MiB; a larger tensor has a piece of its own."""
    lora: Literal["merged", "adapter"] = "merged"
    """With model.lora: send the adapted weights with the adapter merged in, or hand over the adapter itself."""
    eager: bool = False
    """Without torch.compile and CUDA graphs: starts sooner, decodes slower. Always so on a CPU."""
    start_timeout_seconds: float = Field(default=900, gt=0)
    """Time for an engine process to be ready; past it the run stops."""
    deadline_seconds: float = Field(default=3600, gt=0)
    """Time for one generation phase; past it the engine is restarted, and what is missing is generated again."""
    max_restarts: int = Field(default=3, ge=0)
    """Restarts within one generation phase, of an engine that died, hung or ran out of time; the next one stops the
    run."""

    @model_validator(mode="after")
    def _copies_are_whole(self) -> Self:
        if self.devices is None and self.tensor_parallel_size > 1:
            raise ValueError(
                f"tensor_parallel_size is {self.tensor_parallel_size}; name that many GPUs in vllm.devices"
            )
        if self.devices is not None and len(self.devices) % self.tensor_parallel_size:
            raise ValueError(
                f"devices are {len(self.devices)} GPUs, not a multiple of tensor_parallel_size = "
                f"{self.tensor_parallel_size}"
            )
        if self.devices is not None and (len(set(self.devices)) < len(self.devices) or min(self.devices) < 0):
            raise ValueError(f"devices are {list(self.devices)}; name each GPU once, by its number from 0")
        return self


def check_vllm_keys(engine: EngineName, vllm: VllmConfig, *, has_learner: bool) -> None:
    """Raise ValueError if a key of the section `vllm` is given and can have no effect."""
    fields = VllmConfig.model_fields
    given = {key: getattr(vllm, key) for key in fields if getattr(vllm, key) != fields[key].default}
    if engine == "transformers" and given:
        key = next(iter(given))
        raise ValueError(f"vllm.{key} has no effect with engine: transformers; leave it out, or take engine: vllm")
    unused = [key for key in LEARNERS_VLLM_KEYS if key in given]
    if unused and not has_learner:
        raise ValueError(f"vllm.{unused[0]} has no effect where no weights change; leave it out")


class EngineAlone(Section):
    """What generates answers where nothing learns."""

    engine: EngineName = "auto"
    """vllm, or the built-in engine on transformers; auto: vllm where it is installed and a GPU is present."""
    vllm: VllmConfig = VllmConfig()
    """How vLLM runs where it is the engine."""

    @model_validator(mode="after")
    def _vllm_keys_have_an_effect(self) -> Self:
        check_vllm_keys(self.engine, self.vllm, has_learner=False)
        return self


class LearnerConfig(Section):
    """How weights are updated: AdamW on packed rows."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after warm-up; cosine ends at `final_learning_rate_fraction`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly from 0."""
    final_learning_rate_fraction: float = Field(default=0.0, ge=0, le=1)
    """Where cosine ends, as a share of the peak."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient's running mean."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the squared gradient's running mean."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled decay; norms and biases are left out."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients of a larger norm are scaled down to it."""
    num_epochs: int = Field(default=1, ge=1)
    """Passes over each batch of rollouts."""
    num_minibatches: int = Field(default=1, ge=1)
    """Updates per pass; groups are dealt evenly."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Tokens of one packed row, prompts included; a group beyond it is cut into rows of fewer answers."""
    logprob_chunk_tokens: int = Field(default=1024, ge=1)
    """Response tokens whose logits are in memory at a time."""
    activation_checkpointing: bool = False
    """Recompute layers in the backward pass: about a third more time, far less memory."""
    max_mean_logprob_gap: float = Field(default=0.05, gt=0)
    """Mean difference in nats between the engine's and the learner's log-probabilities at which the run stops."""

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps on each batch."""
        return self.num_epochs * self.num_minibatches


class SftLearnerConfig(LearnerConfig):
    """How weights are updated in supervised fine-tuning."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""


class EvaluationConfig(Section):
    """Questions kept out of training on which progress is measured."""

    data: DataConfig | None = None
    """Held-out problems; None: no evaluation. Template and system prompt not given here are the training data's."""
    every_steps: int | None = Field(default=None, ge=1)
    """Evaluate after every so many steps; None: before the first and after the last only."""
    num_samples: int = Field(default=1, ge=1)
    """Sampled answers per problem; one greedy answer comes on top."""
    blank_images: bool = False
    """After the last step, answer with grey images too: the accuracy that is left is guessed from the text."""

    @field_validator("data")
    @classmethod
    def _all_are_asked(cls, data: DataConfig | None) -> DataConfig | None:
        if data is not None:
            given = ["shuffle"] * (not data.shuffle) + ["curriculum"] * (data.curriculum is not None)
            given += [key for each in data.sources for key in ("weight", "count") if getattr(each, key) is not None]
            if given:
                raise ValueError(f"{given[0]} has no effect on held-out problems, each of which is asked; leave it out")
        return data


class CheckpointConfig(Section):
    """When the state is saved."""

    every_steps: int = Field(default=50, ge=1)
    """A checkpoint after every so many steps, and always after the last."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that stay; the last good one is never deleted first."""


class _Recipe(Section):
    """What recipes have in common."""

    @model_validator(mode="before")
    @classmethod
    def _heldout_problems_are_asked_alike(cls, content: Any) -> Any:
        """Held-out data takes over the training data's template and system prompt where it has none of its own."""
        if not isinstance(content, Mapping):
            return content
        recipe = dict(cast("Mapping[str, Any]", content))
        data, evaluation = recipe.get("data"), recipe.get("evaluation")
        if not isinstance(data, Mapping) or not isinstance(evaluation, Mapping):
            return recipe
        heldout = cast("Mapping[str, Any]", evaluation).get("data")
        if heldout is None or isinstance(heldout, Section):
            return recipe
        own = cast("Mapping[str, Any]", heldout) if isinstance(heldout, Mapping) else {"path": heldout}
        training = cast("Mapping[str, Any]", data)
        shared = {key: training[key] for key in ("prompt_template", "system_prompt") if key in training}
        recipe["evaluation"] = {**evaluation, "data": {**shared, **own}}
        return recipe


class TrainRecipe(_Recipe):
    """Reinforcement learning: `sightline train`."""

    model: ModelConfig
    """The checkpoint to start from."""
    data: DataConfig
    """The problems to learn from."""
    output_dir: str
    """The run directory; the same command goes on from its last checkpoint."""
    steps: int = Field(default=200, ge=1)
    """Training steps, each one batch of rollouts and its updates."""
    seed: int = Field(default=0, ge=0)
    """Decides the order of problems and every sampled token."""
    rollout: RolloutConfig = RolloutConfig()
    """How answers are sampled."""
    engine: EngineName = "auto"
    """What generates answers: vllm, or the built-in engine on transformers; auto: vllm where it is installed and a GPU
    is present."""
    vllm: VllmConfig = VllmConfig()
    """How vLLM runs where it is the engine."""
    reward: RewardConfig = RewardConfig()
    """How answers are graded."""
    max_unscored_fraction: float = Field(default=0.5, ge=0, le=1)
    """The run stops if more than this share of a step's answers could not be graded."""
    alarm_window_steps: int | None = Field(default=20, ge=1)
    """Steps whose means are compared with the run's first, to warn of answers that please the reward alone; None:
    no alarms."""
    algorithm: AlgorithmConfig = Grpo()
    """How grades become a gradient."""
    learner: LearnerConfig = LearnerConfig()
    """How weights are updated."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How progress is measured."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm_by_name(cls, content: Any) -> Any:
        """`algorithm: rloo` is short for `algorithm: {name: rloo}`; options without a name are GRPO's."""
        if isinstance(content, str):
            return {"name": content}
        if isinstance(content, Mapping):
            return {"name": "grpo", **cast("Mapping[str, Any]", content)}
        return content

    @model_validator(mode="after")
    def _group_is_large_enough(self) -> Self:
        algorithm, needed = self.algorithm, self.algorithm.min_group_size
        if self.rollout.group_size < needed:
            why = (
                "compares the answers to a problem"
                if algorithm.compares_siblings
                else f"with zero_variance_groups: {algorithm.zero_variance_groups} looks for different rewards"
            )
            raise ValueError(
                f"rollout.group_size is {self.rollout.group_size}; {algorithm.name} {why} and needs at least {needed}"
            )
        return self

    @model_validator(mode="after")
    def _vllm_keys_have_an_effect(self) -> Self:
        check_vllm_keys(self.engine, self.vllm, has_learner=True)
        return self

    @model_validator(mode="after")
    def _rewards_fit_the_token_limit(self) -> Self:
        self.reward.check_limit(self.rollout.max_response_tokens)
        return self

    @model_validator(mode="after")
    def _policy_learns(self) -> Self:
        critic = self.algorithm.critic_config
        if critic is not None and critic.warmup_steps >= self.steps:
            raise ValueError(
                f"algorithm.critic.warmup_steps is {critic.warmup_steps} of {self.steps} steps; "
                "the policy would never learn; give it fewer, or the run more steps"
            )
        return self

    @model_validator(mode="after")
    def _reference_can_be_refreshed(self) -> Self:
        refresh = self.algorithm.kl.refresh_every_steps
        if self.model.lora is not None and refresh is not None:
            raise ValueError(
                f"algorithm.kl.refresh_every_steps is {refresh}, but with model.lora the reference is the model "
                "without its adapter, which can't be refreshed; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        dual_clip = getattr(self.algorithm, "dual_clip", None)
        if dual_clip is not None and self.learner.updates_per_step == 1:
            raise ValueError(
                f"algorithm.dual_clip is {dual_clip:g}, but with one update a step every ratio is 1; leave it out, or "
                "raise learner.num_epochs or num_minibatches"
            )
        refresh = self.algorithm.kl.refresh_every_steps
        if refresh is not None and refresh > self.steps:
            raise ValueError(
                f"algorithm.kl.refresh_every_steps is {refresh} of {self.steps} steps; the reference would never "
                "change; leave it out, or lower it"
            )
        return self

    @model_validator(mode="after")
    def _there_are_components_to_tell_apart(self) -> Self:
        if self.algorithm.name == "gdpo" and len(self.reward.components) < 2:
            raise ValueError(
                "algorithm gdpo normalises each reward component alone, and reward.components has one; use grpo"
            )
        return self

    @model_validator(mode="after")
    def _minibatches_hold_a_group(self) -> Self:
        if self.learner.num_minibatches > self.rollout.prompts_per_step:
            raise ValueError(
                f"learner.num_minibatches is {self.learner.num_minibatches}, more than the "
                f"{self.rollout.prompts_per_step} groups of a step (rollout.prompts_per_step)"
            )
        return self


class SftRecipe(_Recipe):
    """Supervised fine-tuning on rows with solutions: `sightline sft`."""

    model: ModelConfig
    """The checkpoint to start from."""
    data: DataConfig
    """Problems with solutions."""
    output_dir: str
    """The run directory; the same command goes on from its last checkpoint."""
    steps: int = Field(default=200, ge=1)
    """Updates."""
    batch_size: int = Field(default=64, ge=1)
    """Solutions per update."""
    seed: int = Field(default=0, ge=0)
    """Decides the order of problems."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """The longest solution, in tokens; longer ones are refused."""
    learner: SftLearnerConfig = SftLearnerConfig()
    """How weights are updated."""
    engine: EngineName = "auto"
    """What generates answers: vllm, or the built-in engine on transformers; auto: vllm where it is installed and a GPU
    is present."""
    vllm: VllmConfig = VllmConfig()
    """How vLLM runs where it is the engine."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How progress is measured."""
    reward: RewardConfig = RewardConfig()
    """How answers are graded in evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""

    @model_validator(mode="after")
    def _vllm_keys_have_an_effect(self) -> Self:
        check_vllm_keys(self.engine, self.vllm, has_learner=True)
        return self

    @model_validator(mode="after")
    def _rewards_fit_the_token_limit(self) -> Self:
        self.reward.check_limit(self.max_response_tokens)
        return self
