"""An engine that answers from a script, without a model, and notes what it was asked."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.rollout.engine import Sampling
from sightline.types import Prompt, Rollout

Script = Callable[[Prompt, int, Sampling], str]  # what answer number so-and-so to a prompt is, between its tags


class ScriptedEngine:
    """`asked` holds the prompts of each call; with `log`, their ids also go to a file, which outlives a kill."""

    def __init__(self, script: Script, *, log: Path | None = None, seconds: float = 0.0) -> None:
        self._script = script
        self._log = log
        self._seconds = seconds
        self.asked: list[list[Prompt]] = []
        self.num_closed = 0

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        self.asked.append(list(prompts))
        if self._log is not None:
            with self._log.open("ab") as file:
                file.write((" ".join(prompt.problem.id for prompt in prompts) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        time.sleep(self._seconds)
        return [
            [_rollout(prompt, index, self._script(prompt, index, sampling)) for index in range(sampling.group_size)]
            for prompt in prompts
        ]

    def close(self) -> None:
        self.num_closed += 1

    @property
    def asked_ids(self) -> list[list[str]]:
        return [[prompt.problem.id for prompt in prompts] for prompts in self.asked]


def _rollout(prompt: Prompt, index: int, answer: str) -> Rollout:
    return Rollout(
        prompt=prompt,
        index=index,
        token_ids=(1,),
        logprobs=(0.0,),
        response_mask=(True,),
        text=f"<think>so</think><answer>{answer}</answer>",
        finish_reason="stop",
        policy_version=0,
    )
