"""verl's answers: its registered functions on the tables of `golden_inputs`. Writes verl.json.

Run inside verl's environment. Advantages come in `verl_advantages`; here are losses, KL and corrections.
"""

import importlib.metadata
import math
from pathlib import Path
from typing import Any

import torch
from golden_inputs import MAX_RESPONSE_TOKENS, all_inputs, case, gradient_of, tensor, write_goldens
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.trainer.ppo import rollout_corr_helper as corrections
from verl.workers.config import ActorConfig
from verl_advantages import advantage_cases, overlong_cases

INPUTS = all_inputs()
LOSS_SETS = ("plain", "holes", "far", "masked_rows")
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
NO_DUAL_CLIP = 1e9
REJECTIONS = {  # rollout_rs -> threshold in the moderate sets, and in `far`
    "token_k1": ("0.6_1.5", "0.2_5.0"),
    "token_k2": ("0.1", "1.5"),
    "token_k3": ("0.1", "1.5"),
    "seq_sum_k1": ("0.5_2.0", "0.01_50.0"),
    "seq_sum_k2": ("0.6", "9.0"),
    "seq_sum_k3": ("0.6", "20.0"),
    "seq_mean_k1": ("0.9_1.1", "0.6_1.5"),
    "seq_mean_k2": ("0.08", "1.2"),
    "seq_mean_k3": ("0.08", "2.0"),
    "seq_max_k2": ("0.3", "4.0"),
    "seq_max_k3": ("0.3", "10.0"),
    "token_k1,seq_mean_k3": ("0.6_1.5,0.08", "0.2_5.0,2.0"),
}


def policy_case(name: str, input_name: str, *, loss_mode: str = "vanilla", **options: Any) -> dict[str, Any]:
    """One policy loss with the given advantages on every token; `correction` adds verl's rollout correction."""
    inputs = INPUTS[input_name]
    mask = tensor(inputs, "mask")
    written = {"loss_mode": loss_mode, "loss_agg_mode": "token-mean", "clip_ratio_c": 3.0, **options}
    expected: dict[str, Any] = {}
    correction = written.pop("correction", None)
    weights = None
    if correction is not None:
        weights, kept = _correct(input_name, correction)
        expected = {"weights": weights, "mask": kept}
        mask = kept
        written.update(correction)
    config = _actor_config(written)

    def loss_of(new: Tensor) -> Tensor:
        loss, metrics = core_algos.get_policy_loss_fn(loss_mode)(
            old_log_prob=tensor(inputs, "old"),
            log_prob=new,
            advantages=tensor(inputs, "advantages")[:, None].expand_as(mask),
            response_mask=mask,
            loss_agg_mode=written["loss_agg_mode"],
            config=config,
            rollout_is_weights=weights,
        )
        expected["metrics"] = metrics
        return loss

    loss, gradient = gradient_of(tensor(inputs, "new"), loss_of)
    call = f"core_algos.get_policy_loss_fn('{loss_mode}')"
    return case(name, call, input_name, written, {"loss": loss, "gradient": gradient, **expected})


def vanilla_cases() -> list[dict[str, Any]]:
    cases = []
    for input_name in LOSS_SETS:
        for aggregation in AGGREGATIONS:
            scale = {"loss_scale_factor": MAX_RESPONSE_TOKENS} if aggregation == "seq-mean-token-sum-norm" else {}
            for high in (0.2, 0.28):
                for clip_c in (3.0, NO_DUAL_CLIP):
                    name = f"vanilla {aggregation} clip 0.2/{high} c {clip_c:g}"
                    options = {"clip_ratio_low": 0.2, "clip_ratio_high": high, "clip_ratio_c": clip_c, **scale}
                    cases.append(policy_case(name, input_name, loss_agg_mode=aggregation, **options))
        moderate = input_name != "far"
        for correction in _corrections_with_loss(moderate=moderate):
            name = "vanilla token-mean " + " ".join(f"{key} {value}" for key, value in correction.items())
            options = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "correction": correction}
            cases.append(policy_case(name, input_name, **options))
    return cases


def variant_cases() -> list[dict[str, Any]]:
    cases = []
    per_sequence = {"loss_agg_mode": "seq-mean-token-mean"}
    for input_name in (*LOSS_SETS, "close"):
        for low, high in ((3e-4, 4e-4), (0.2, 0.2)):
            clip = {"clip_ratio_low": low, "clip_ratio_high": high}
            for aggregation in ("seq-mean-token-mean", "token-mean"):
                options = {**clip, "loss_agg_mode": aggregation}
                name = f"gspo {aggregation} clip {low}/{high}"
                cases.append(policy_case(name, input_name, loss_mode="gspo", **options))
    for input_name in LOSS_SETS:
        for aggregation in ("token-mean", "seq-mean-token-mean"):
            clip = {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0, "loss_agg_mode": aggregation}
            cases.append(policy_case(f"cispo {aggregation} clip 1.0/4.0", input_name, loss_mode="cispo", **clip))
        for positive, negative in ((1.0, 1.05), (0.5, 2.0)):
            name = f"sapo temperatures {positive}/{negative}"
            options = {"tau_pos": positive, "tau_neg": negative, **per_sequence}
            cases.append(policy_case(name, input_name, loss_mode="sapo", **options))
        for low, high in ((0.2, 0.2), (0.2, 0.28), (0.4, 0.4)):
            clip = {"clip_ratio_low": low, "clip_ratio_high": high}
            name = f"geo_mean clip {low}/{high}"
            cases.append(policy_case(name, input_name, loss_mode="geo_mean", **clip))
        clip = {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}
        weights = {"rollout_is": "token", "rollout_is_threshold": 2.0}
        name = "geo_mean clip 0.4/0.4 rollout_is token"
        cases.append(policy_case(name, input_name, loss_mode="geo_mean", correction=weights, **clip))
    return cases


def kl_cases() -> list[dict[str, Any]]:
    """The estimate per token, 0 outside the mask; the gradient is of its sum. The loss: its aggregate."""
    cases = []
    for input_name in ("plain", "holes", "far"):
        inputs = INPUTS[input_name]
        mask, new, reference = tensor(inputs, "mask"), tensor(inputs, "new"), tensor(inputs, "reference")
        for kind in ("k1", "k2", "k3", "abs", "k1+", "k2+", "k3+"):

            def estimate(new: Tensor, kind: str = kind, reference: Tensor = reference, mask: Tensor = mask) -> Tensor:
                return core_algos.kl_penalty(new, reference, kind) * mask

            _, gradient = gradient_of(new, lambda new, estimate=estimate: estimate(new).sum())
            expected = {"kl": estimate(new), "gradient": gradient}
            cases.append(case(f"kl {kind}", "core_algos.kl_penalty", input_name, {"kl_penalty": kind}, expected))
    for input_name in LOSS_SETS:
        cases += [_kl_loss_case(kind, mode, input_name) for kind in ("k3", "k3+") for mode in AGGREGATIONS]
    return cases


def value_and_entropy_cases() -> list[dict[str, Any]]:
    cases = []
    for input_name in LOSS_SETS:
        inputs = INPUTS[input_name]
        mask, returns, values = tensor(inputs, "mask"), tensor(inputs, "returns"), tensor(inputs, "values")
        for clip in (0.5, 0.2, 1e9):
            fractions: list[Tensor] = []

            def value_loss(
                new: Tensor,
                clip: float = clip,
                returns: Tensor = returns,
                values: Tensor = values,
                mask: Tensor = mask,
                fractions: list[Tensor] = fractions,
            ) -> Tensor:
                loss, clipped = core_algos.compute_value_loss(new, returns, values, mask, clip, "token-mean")
                fractions.append(clipped)
                return loss

            loss, gradient = gradient_of(tensor(inputs, "new_values"), value_loss)
            expected = {"loss": loss, "gradient": gradient, "metrics": {"vf_clipfrac": fractions[0]}}
            options = {"cliprange_value": clip, "loss_agg_mode": "token-mean"}
            name = f"value loss clip {clip:g}"
            cases.append(case(name, "core_algos.compute_value_loss", input_name, options, expected))
        for mode in AGGREGATIONS:
            cases.append(_entropy_case(mode, input_name))
    return cases


def correction_cases() -> list[dict[str, Any]]:
    cases = []
    weighings: list[dict[str, Any]] = []
    for level in ("token", "sequence"):
        weighings.append({"rollout_is": level, "rollout_is_threshold": 2.0})
        weighings.append({"rollout_is": level, "rollout_is_threshold": 2.0, "rollout_is_batch_normalize": True})
        weighings.append({"rollout_is": level, "rollout_is_threshold": "0.5_2.0"})
    for input_name in ("plain", "holes", "far"):
        rejections = [
            {"rollout_rs": kind, "rollout_rs_threshold": thresholds[input_name == "far"]}
            for kind, thresholds in REJECTIONS.items()
        ]
        cases += [_correction_case(options, input_name) for options in (*weighings, *rejections)]
    for input_name in LOSS_SETS:
        inputs = INPUTS[input_name]
        metrics = corrections.compute_offpolicy_metrics(
            tensor(inputs, "old"), tensor(inputs, "sampling"), tensor(inputs, "mask")
        )
        call = "rollout_corr_helper.compute_offpolicy_metrics"
        cases.append(case("off-policy metrics", call, input_name, {}, {"metrics": metrics}))
    return cases


def controller_cases() -> list[dict[str, Any]]:
    cases = []
    for start, target, horizon, updates in (
        (0.2, 6.0, 10000, [[3.0, 256], [5.9, 256], [7.0, 512], [60.0, 1024], [0.0, 8]]),
        (0.001, 0.1, 10, [[0.05, 4], [0.11, 4], [0.119, 8], [0.5, 8], [0.09, 2]]),
    ):
        controller = core_algos.AdaptiveKLController(start, target, horizon)
        values = []
        for current_kl, n_steps in updates:
            controller.update(current_kl, n_steps)
            values.append(float(controller.value))
        options = {"init_kl_coef": start, "target_kl": target, "horizon": horizon, "updates": updates}
        name = f"adaptive kl controller target {target}"
        cases.append(case(name, "core_algos.AdaptiveKLController", None, options, {"values": values}))
    return cases


def _corrections_with_loss(*, moderate: bool) -> list[dict[str, Any]]:
    weights = {"rollout_is": "token", "rollout_is_threshold": 2.0}
    sequence_weights = {"rollout_is": "sequence", "rollout_is_threshold": 2.0}
    tokens = {"rollout_rs": "token_k1", "rollout_rs_threshold": REJECTIONS["token_k1"][not moderate]}
    sequences = {"rollout_rs": "seq_mean_k1", "rollout_rs_threshold": REJECTIONS["seq_mean_k1"][not moderate]}
    return [weights, sequence_weights, {**weights, **tokens}, {**weights, **sequences}]


def _correct(input_name: str, options: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
    inputs = INPUTS[input_name]
    proto, mask, _ = corrections.compute_rollout_correction_and_rejection_mask(
        tensor(inputs, "old"), tensor(inputs, "sampling"), tensor(inputs, "mask"), **options
    )
    return None if proto is None else proto.batch["rollout_is_weights"], mask


def _correction_case(options: dict[str, Any], input_name: str) -> dict[str, Any]:
    inputs = INPUTS[input_name]
    log_ratio, mask = tensor(inputs, "old") - tensor(inputs, "sampling"), tensor(inputs, "mask")
    expected: dict[str, Any]
    if "rollout_is" in options:
        function = corrections.compute_rollout_correction_weights
        weights, metrics = function(log_ratio, mask, **options)
        expected = {"weights": weights, "mask": mask}
    else:
        function = corrections.compute_rollout_rejection_mask
        kept, metrics = function(log_ratio, mask, **options)
        expected = {"mask": kept}
    name = "correction " + " ".join(f"{key} {value}" for key, value in options.items())
    call = f"rollout_corr_helper.{function.__name__}"
    return case(name, call, input_name, options, {**expected, "metrics": metrics})


def _kl_loss_case(kind: str, mode: str, input_name: str) -> dict[str, Any]:
    inputs = INPUTS[input_name]
    mask, reference = tensor(inputs, "mask"), tensor(inputs, "reference")

    def loss_of(new: Tensor) -> Tensor:
        kl = core_algos.kl_penalty(new, reference, kind)
        return core_algos.agg_loss(kl, mask, mode, loss_scale_factor=MAX_RESPONSE_TOKENS)

    loss, gradient = gradient_of(tensor(inputs, "new"), loss_of)
    options = {"kl_loss_type": kind, "loss_agg_mode": mode, "loss_scale_factor": MAX_RESPONSE_TOKENS}
    call = "core_algos.kl_penalty, then core_algos.agg_loss"
    return case(f"kl loss {kind} {mode}", call, input_name, options, {"loss": loss, "gradient": gradient})


def _entropy_case(mode: str, input_name: str) -> dict[str, Any]:
    inputs = INPUTS[input_name]
    mask = tensor(inputs, "mask")
    options = {"loss_agg_mode": mode, "loss_scale_factor": MAX_RESPONSE_TOKENS}
    loss, gradient = gradient_of(
        tensor(inputs, "entropy"),
        lambda entropy: core_algos.agg_loss(entropy, mask, mode, loss_scale_factor=MAX_RESPONSE_TOKENS),
    )
    expected = {"loss": loss, "entropy_gradient": gradient}
    return case(f"entropy {mode}", "core_algos.agg_loss of the entropy", input_name, options, expected)


def _actor_config(options: dict[str, Any]) -> ActorConfig:
    fields = ("clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg")
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=1,
        use_dynamic_bsz=True,
        clip_ratio=0.2,
        **{field: options[field] for field in fields if field in options},
    )
    if "loss_scale_factor" in options:
        config.global_batch_info["loss_scale_factor"] = options["loss_scale_factor"]
    return config


def main() -> None:
    torch.set_num_threads(1)
    losses = [*vanilla_cases(), *variant_cases(), *kl_cases(), *value_and_entropy_cases()]
    cases = [*losses, *correction_cases(), *controller_cases(), *advantage_cases(), *overlong_cases()]
    assert all(math.isfinite(entry["expected"].get("loss", 0.0)) for entry in cases)
    oracle = f"verl {importlib.metadata.version('verl')}"
    write_goldens(Path(__file__).with_name("verl.json"), oracle, cases)


if __name__ == "__main__":
    main()
