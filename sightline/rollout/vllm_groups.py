"""What a vLLM process is asked to generate, and rollouts of what it answers, each of them checked.

Shapes: G answers of a prompt, N tokens of all of them one after the other.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sightline.errors import RunError
from sightline.images import ImageStore
from sightline.models.family import Family
from sightline.rollout.engine import Sampling
from sightline.rollout.frames import Array, Frame
from sightline.rollout.group import diverged, make_group
from sightline.rollout.sampling import stream_seed
from sightline.types import ImageRef, Prompt, Rollout

_MOST_DECODERS = 8  # threads that decode pictures


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of a call, with what tells its group from every other."""

    number: int  # place in the call
    prompt: Prompt
    first_index: int  # of its group's random streams


def deal(requests: Sequence[Request], num_shares: int, sampling: Sampling) -> list[list[Request]]:
    """Share requests out, the costliest first and each to the share that has least; a share may stay empty."""
    shares: list[list[Request]] = [[] for _ in range(num_shares)]
    costs = [0] * num_shares
    for request in sorted(requests, key=lambda request: -len(request.prompt.token_ids)):
        share = costs.index(min(costs))
        shares[share].append(request)
        # An answer's length is not known; prompts of all lengths have answers of about the same.
        costs[share] += len(request.prompt.token_ids) + sampling.group_size * sampling.max_response_tokens
    return shares


def generate_frame(family: Family, requests: Sequence[Request], sampling: Sampling) -> Frame:
    """The message that asks for a group of answers to each of these prompts, which are numbered by their order."""
    prompts = [request.prompt for request in requests]
    outline_ids, outline_lengths = _ragged([family.outline_ids(prompt) for prompt in prompts])
    prompt_ids, prompt_lengths = _ragged([prompt.token_ids for prompt in prompts])
    seeds = [
        stream_seed(sampling.seed, sampling.stream, request.prompt.problem.id, request.first_index)
        for request in requests
    ]
    head: Mapping[str, object] = {
        "type": "generate",
        "group_size": sampling.group_size,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_response_tokens,
        "images": [[image.digest for image in prompt.images] for prompt in prompts],
    }
    arrays = {
        "outline_ids": outline_ids,
        "outline_lengths": outline_lengths,
        "prompt_ids": prompt_ids,
        "prompt_lengths": prompt_lengths,
        "seeds": np.array(seeds, np.int64),
    }
    return Frame(head, arrays)


def pictures_frame(images: ImageStore, references: Mapping[str, ImageRef], digests: Sequence[str]) -> Frame:
    """The pictures that a process asked for, as RGB pixels. Raises ImageError if one can't be read any more."""
    num_threads = max(1, min(_MOST_DECODERS, os.cpu_count() or 1, len(digests)))
    with ThreadPoolExecutor(num_threads) as pool:
        pictures = pool.map(images.open, [references[digest] for digest in digests])
        arrays: dict[str, Array] = {str(number): np.asarray(picture) for number, picture in enumerate(pictures)}
    return Frame({"type": "pictures", "digests": list(digests)}, arrays)


class GroupReader:
    """Makes rollouts of the groups of one call. Raises RunError for what must never be learned from."""

    def __init__(self, family: Family, sampling: Sampling, *, policy_version: int) -> None:
        self._family = family
        self._sampling = sampling
        self._policy_version = policy_version
        self._end = _ids(family.end_token_ids)
        self._forbidden = _ids(family.forbidden_token_ids)

    def read(self, request: Request, frame: Frame) -> list[Rollout]:
        """The answers of a `group` message to a prompt."""
        ids_N, logprobs_N, lengths_G = (frame.arrays.get(name) for name in ("token_ids", "logprobs", "lengths"))
        finish_G = frame.head.get("finish")
        if ids_N is None or logprobs_N is None or lengths_G is None or not isinstance(finish_G, list):
            raise _wrong(request, "parts of its message are missing")
        self._check_sizes(request, ids_N, logprobs_N, lengths_G)
        self._check_tokens(request, ids_N, logprobs_N)
        ends_G = np.cumsum(lengths_G)
        is_end_N = np.isin(ids_N, self._end)
        if int(is_end_N.sum()) != int(is_end_N[ends_G - 1].sum()):
            raise _wrong(request, "an answer goes on after its end")
        expected_G = ["stop" if is_end else "length" for is_end in is_end_N[ends_G - 1].tolist()]
        if finish_G != expected_G:
            raise _wrong(request, f"it says that its answers finished by {finish_G}, and they did by {expected_G}")
        ids = [part.tolist() for part in np.split(ids_N, ends_G[:-1])]
        logprobs = [part.tolist() for part in np.split(logprobs_N, ends_G[:-1])]
        return make_group(self._family, request.prompt, ids, logprobs, policy_version=self._policy_version)

    def _check_sizes(self, request: Request, ids_N: Array, logprobs_N: Array, lengths_G: Array) -> None:
        group_size, most = self._sampling.group_size, self._sampling.max_response_tokens
        if lengths_G.shape != (group_size,):
            raise _wrong(request, f"it has {lengths_G.size} answers and {group_size} were asked for")
        if int(lengths_G.min()) < 1 or int(lengths_G.max()) > most:
            raise _wrong(request, f"its answers have {lengths_G.tolist()} tokens and may have 1 to {most}")
        total = (int(lengths_G.sum()),)
        if ids_N.shape != total or logprobs_N.shape != total:
            raise _wrong(request, f"it has {ids_N.size} tokens and {logprobs_N.size} log-probabilities for {total[0]}")

    def _check_tokens(self, request: Request, ids_N: Array, logprobs_N: Array) -> None:
        is_forbidden_N = np.isin(ids_N, self._forbidden) | (ids_N < 0)
        if is_forbidden_N.any():
            raise _wrong(request, f"it holds token {int(ids_N[is_forbidden_N][0])}, which can't be sampled")
        if not np.isfinite(logprobs_N).all():
            raise diverged(self._policy_version)


def _wrong(request: Request, what: str) -> RunError:
    place = request.prompt.problem.place or request.prompt.problem.id
    return RunError(
        f"{place}: the vLLM engine's group is not what was asked for: {what}; report this with the vLLM version, and "
        "go on with engine=transformers"
    )


def _ids(tokens: Iterable[int]) -> Array:
    return np.array(sorted(tokens), np.int64)


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """All rows one after the other, and their lengths."""
    lengths = np.array([len(row) for row in rows], np.int32)
    return np.array([token for row in rows for token in row], np.int32), lengths
