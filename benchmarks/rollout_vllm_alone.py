"""vLLM called as its users call it, in a process of its own: benchmarks/rollout.py starts it and measures with it.

    python rollout_vllm_alone.py '{"model": ..., arguments of vllm.LLM}' REPLY_FD

Reads requests from standard input, a line of JSON each: prompts (token ids with one image token for each picture),
files (of the pictures, one a prompt), seeds (one a prompt, or null: none), group_size, max_tokens. Answers through the
descriptor, a line of JSON each: first that it is ready, then the seconds and tokens of every request. Every answer has
max_tokens tokens, since `ignore_eos` is set. The seconds begin before pictures are opened and end with the last answer.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Load the model, then answer until standard input ends."""
    started = time.perf_counter()
    with os.fdopen(int(sys.argv[2]), "w", buffering=1) as replies:
        from vllm import LLM, __version__

        llm = LLM(**json.loads(sys.argv[1]))
        print(json.dumps({"vllm": __version__, "seconds": time.perf_counter() - started}), file=replies)
        for line in sys.stdin:
            print(json.dumps(_generate(llm, json.loads(line))), file=replies)


def _generate(llm: Any, request: dict[str, Any]) -> dict[str, float]:
    from PIL import Image
    from vllm import SamplingParams

    started = time.perf_counter()
    prompts = [
        {"prompt_token_ids": ids, "multi_modal_data": {"image": [Image.open(file).convert("RGB")]}}
        for ids, file in zip(request["prompts"], request["files"], strict=True)
    ]
    sampling = [
        SamplingParams(
            n=request["group_size"],
            temperature=1.0,
            max_tokens=request["max_tokens"],
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            seed=seed,
        )
        for seed in request["seeds"] or [None] * len(prompts)
    ]
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    answers = [answer for output in outputs for answer in output.outputs]
    return {"seconds": seconds, "tokens": sum(len(answer.token_ids) for answer in answers)}


if __name__ == "__main__":
    main()
