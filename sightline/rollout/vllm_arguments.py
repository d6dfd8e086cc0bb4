"""What vLLM is started with alike as an engine and as a server; imports neither vllm nor torch."""

FORBIDDEN_KEY = "sightline_forbidden_token_ids"  # in vLLM's `additional_config`
FORBIDDING_CLASS = "sightline.rollout.vllm_host.forbidden_tokens:ForbiddenTokens"  # reads that key; imports vllm
CPU_CACHE_BYTES = 2**30  # of keys and values on a CPU, where nobody says how many

_MOST_CPU_BATCH_TOKENS = 2**16  # of one step


def environment(*, is_cpu: bool) -> dict[str, str]:
    """Variables that vLLM reads as it is imported, in its process and in the workers that it starts."""
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # which a CPU has not: both devices compute alike
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if is_cpu:
        variables |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM's process computes itself, not one more process
            "TORCHDYNAMO_DISABLE": "1",  # else the first answers wait half a minute for a compiler
        }
    return variables


def whole_prompts(*, max_sequences: int, max_tokens: int) -> dict[str, object]:
    """Settings of an engine on a CPU under which a prompt, with its answer of `max_tokens`, is read in one go.

    Cut in pieces, vLLM would turn a seed's stream back, which torch can't on a CPU.
    """
    batch_tokens = min(max_sequences * max_tokens, _MOST_CPU_BATCH_TOKENS)
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(batch_tokens, max_tokens, max_sequences),
    }


def tying(*, is_tied: bool) -> dict[str, object]:
    """Overrides of the model's config, which says in two places, not always alike, if the head is the embedding."""
    return {"tie_word_embeddings": is_tied, "text_config": {"tie_word_embeddings": is_tied}}
