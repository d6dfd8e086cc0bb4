"""Reward functions as users write them, in every form; only worker processes load this file."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np


def half_if_right(response: str, is_correct: bool | None) -> float:
    return 0.5 if is_correct else 0.0


def sees_all_of_one(response: str, **kwargs: object) -> dict[str, object]:
    return {"reward": 1, **dict.fromkeys(kwargs, 1)}


def gold_and_span(gold: str, answer: str | None, gold_list: list[str]) -> float:
    return float(answer == gold) + 10 * len(gold_list)


def reads_metadata(metadata: Mapping[str, object], kind: str) -> float:
    assert kind == "number"
    return float(str(metadata["difficulty"]))


def picture_sizes(images: list[str]) -> float:
    from PIL import Image

    assert all(path.endswith(".png") for path in images)
    return float(sum(Image.open(path).width for path in images))


def lengths_of_many(responses: list[str], golds: list[str]) -> list[float]:
    assert golds == ["3"] * len(responses)
    return [float(len(each)) for each in responses]


def number_of_answers(responses: list[str]) -> list[int]:
    return [len(responses)] * len(responses)


def meets_another_process(response: str, folder: str) -> int:
    """How many processes came, once there are two or half a minute has passed."""
    (Path(folder) / str(os.getpid())).touch()
    until = time.monotonic() + 30
    while len(os.listdir(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return len(os.listdir(folder))


def trl_lengths(prompts: list[str], completions: list[str], **kwargs: object) -> list[float]:
    assert kwargs["solution"] == ["3"] * len(prompts)
    return [float(len(completion)) for completion in completions]


def trl_columns(completions: list[str], difficulty: list[int], answer: list[str]) -> list[float]:
    return [float(each) + float(gold) for each, gold in zip(difficulty, answer, strict=True)]


def trl_column_of_kwargs(completions: list[str], **kwargs: list[float]) -> list[float]:
    return kwargs["difficulty"]


def trl_turns(prompts: list[list[dict[str, str]]], completions: list[list[dict[str, str]]]) -> list[float]:
    assert prompts[0][0] == {"role": "user", "content": "How many?"}
    return [float(len(completion[0]["content"])) for completion in completions]


def trl_token_counts(completion_ids: list[list[int]]) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, object]:
    rewards = [
        float(query.removeprefix(prompt) == label)
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": np.array(rewards), "scores": rewards, "extra_logs": {"length": [len(q) for q in queries]}}


async def waits_with_others(response: str) -> float:
    await asyncio.sleep(1.0)
    return 1.0


async def one_waits_for_ever(response: str) -> float:
    await asyncio.sleep(1000 if response == "hang" else 0)
    return 1.0


async def one_of_many_raises(response: str) -> float:
    match response:
        case "cancel":
            raise asyncio.CancelledError
        case "raise":
            raise OSError("no such server")
    return 1.0


async def many_at_once(responses: list[str]) -> list[float]:
    await asyncio.sleep(0)
    return [2.0] * len(responses)


_RETURNS: dict[str, object] = {
    "none": None,
    "true": True,
    "integer": 7,
    "decimal": Decimal("0.25"),
    "fraction": Fraction(1, 4),
    "numpy": np.float32(0.25),
    "details": {"reward": 0.5, "style": 1, "note": "fine", "broken": float("nan")},
    "no reward": {"score": 1},
    "text": "0.5",
    "nan": float("nan"),
    "infinite": -float("inf"),
    "huge": 10**400,
    "list": [1.0],
}


def returns_what_it_is_told(response: str) -> object:
    return _RETURNS[response]


def misbehaves(response: str) -> float:
    match response:
        case "hang":
            time.sleep(1000)
        case "spin":
            while True:
                pass
        case "crash":
            os._exit(7)
        case "exit":
            sys.exit("enough")
        case "raise":
            raise ValueError("a message\nin two lines")
        case "eat":
            bytearray(3 * 2**30)
        case "print":
            print('{"number": 0, "value": {"scores": [[9, null, {}]]}}', flush=True)  # noqa: T201 (as users do)
    return 1.0


_MANY: dict[str, object] = {
    "wrong length": [1.0],
    "partial": [1.0, None, float("nan")],
    "number": 1.0,
    "mappings": [{"reward": 1, "style": 2}, {"reward": 3}, {"reward": None}],
    "no rewards": {"scores": [1, 2, 3]},
    "one log for all": {"rewards": [1, 2, 3], "extra_logs": {"temperature": 5, "short": [1]}},
    "array": np.array([1, 2, 3]),
}


def returns_for_many(responses: list[str]) -> object:
    return _MANY[responses[0]]


def has_own_arguments(response: str, factor: float, **others: float) -> float:
    return factor * len(response)


@dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, response: str) -> float:
        return self.factor * len(response)


def _add(response: str, more: float) -> float:
    return len(response) + more


scaled_object = Scaled(3.0)
partial_of_one = partial(_add, more=5.0)
not_a_function = 3


def mixed(response: str, golds: Sequence[str]) -> float:
    return 0.0


def misspelt(response: str, golld: str) -> float:
    return 0.0


def takes_nothing() -> float:
    return 0.0


def positional(response: str, /) -> float:
    return 0.0


def trl_with_trainer(completions: list[str], trainer_state: object) -> list[float]:
    return []


def own_default(response: str, tolerance: float = 0.1) -> float:
    return 0.0
