"""How far the learner's policy is from the one that sampled: KL, chi-squared divergence, sample share.

Definitions as in verl 0.9.1, `rollout_corr_helper.py`; the ratio is learner / engine.
Shapes: N response tokens, C counting tokens, A answers with a counting token.
"""

import torch
from torch import Tensor

from sightline.algorithms.surrogates import bounded_log_ratio, log_ratio


def off_policy_metrics(
    sampling_logprobs_N: Tensor, logprobs_N: Tensor, response_mask_N: Tensor, answer_N: Tensor
) -> dict[str, float]:
    """Metrics `off_policy/...` over the counting tokens, in nats; none if no token counts.

    `answer_N` says which answer a token belongs to. Exponents are held within +-20; NaN log-probabilities give NaN.
    """
    if not bool(response_mask_N.any()):
        return {}
    sampling_C = sampling_logprobs_N[response_mask_N].double()
    learner_C = logprobs_N[response_mask_N].double()
    gap_C = sampling_C - learner_C
    log_ratio_C = log_ratio(learner_C, sampling_C)
    ratio_C = log_ratio_C.exp()
    _, answer_C, lengths_A = answer_N[response_mask_N].unique(return_inverse=True, return_counts=True)
    gap_sum_A = torch.zeros(len(lengths_A), dtype=torch.float64).index_add(0, answer_C, gap_C)
    ratio_A = bounded_log_ratio(-gap_sum_A).exp()
    values = {
        "off_policy/kl": gap_C.mean(),
        "off_policy/k3": (ratio_C - log_ratio_C - 1).mean(),
        "off_policy/chi2_token": ratio_C.square().mean() - 1,
        "off_policy/chi2_sequence": ratio_A.square().mean() - 1,
        "off_policy/effective_sample_share": ratio_C.mean().square() / ratio_C.square().mean(),
        "off_policy/log_perplexity_ratio": (gap_sum_A / lengths_A).mean(),
        "off_policy/max_ratio": ratio_C.max(),
        "off_policy/min_ratio": ratio_C.min(),
    }
    return {name: float(value) for name, value in values.items()}
