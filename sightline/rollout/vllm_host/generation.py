"""One call of `generate`: prompts into vLLM as it has room for them, groups out as they are complete.

Shapes: P prompts, G answers of each.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from vllm import LLM, RequestOutput, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind

from sightline.rollout.engine_settings import HostSettings
from sightline.rollout.frames import Frame, FramePipe
from sightline.rollout.vllm_host.failure import REFUSALS, HostError, first_line
from sightline.rollout.vllm_host.pictures import Pictures

MIN_TEMPERATURE = 0.01  # vLLM takes any lower one but 0 for this
PROGRESS_SECONDS = 1.0
PROMPTS_A_FETCH = 64  # whose pictures are asked for at once, so that those of a long call need not fit in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a `generate` message asks for."""

    group_size: int  # G
    temperature: float
    max_tokens: int  # of an answer
    digests: Sequence[Sequence[str]]  # of each prompt's pictures
    outlines: Sequence[Sequence[int]]  # token ids with one image token for each picture
    prompts: Sequence[Sequence[int]]  # token ids as the trainer reads them
    seeds: Sequence[int]  # of each prompt; its answer i is drawn with seed + i

    @classmethod
    def from_frame(cls, frame: Frame) -> "Order":
        """Read the message. Raises HostError for a temperature that vLLM would change."""
        temperature = float(frame.head["temperature"])
        if 0 < temperature < MIN_TEMPERATURE:
            raise HostError(
                f"the temperature is {temperature}; vLLM samples at {MIN_TEMPERATURE} or above, or at 0", is_final=True
            )
        return cls(
            group_size=frame.head["group_size"],
            temperature=temperature,
            max_tokens=frame.head["max_tokens"],
            digests=frame.head["images"],
            outlines=_rows(frame.arrays["outline_ids"], frame.arrays["outline_lengths"]),
            prompts=_rows(frame.arrays["prompt_ids"], frame.arrays["prompt_lengths"]),
            seeds=frame.arrays["seeds"].tolist(),
        )


class _AtOnce(Executor):
    """Does a call's work where it is made."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Generation:
    """The prompts of one order on their way through the engine."""

    def __init__(
        self,
        llm: LLM,
        settings: HostSettings,
        order: Order,
        *,
        pictures: Pictures,
        adapter: LoRARequest | None,
        pipe: FramePipe,
    ) -> None:
        self._llm = llm
        self._engine: Any = llm.llm_engine
        self._settings = settings
        self._order = order
        self._pictures = pictures
        self._adapter = adapter
        self._pipe = pipe
        self._num_growing = max(1, settings.max_sequences // order.group_size)  # prompts that fill the engine
        self._num_fetched = 0  # prompts whose pictures were asked for
        self._rendering: deque[Future[Any]] = deque()  # prompts that are made ready, in their order
        self._num_added = 0  # prompts that the engine was given
        self._open: set[str] = set()  # request ids of those that it has not answered
        self._num_tokens = 0  # of the groups that are sent

    def run(self) -> int:
        """Send all groups; the number of tokens. Raises HostError."""
        reported = time.monotonic()
        renderer = ThreadPoolExecutor(max_workers=1) if self._settings.has_prompt_thread else _AtOnce()
        try:
            while self._open or self._num_added < len(self._order.prompts):
                self._render_ahead(renderer)
                self._add_rendered()
                for output in self._engine.step():
                    if output.finished:
                        self._open.remove(output.request_id)
                        self._send_group(output)
                if time.monotonic() - reported >= PROGRESS_SECONDS:
                    reported = time.monotonic()
                    num_tokens = self._num_tokens + _num_open_tokens(self._engine)
                    self._pipe.send(Frame({"type": "progress", "num_tokens": num_tokens}))
        finally:
            renderer.shutdown(cancel_futures=True)
            if self._open:
                self._engine.abort_request(list(self._open))
        return self._num_tokens

    def _render_ahead(self, renderer: Executor) -> None:
        """Have twice as many prompts on their way as fill the engine, and not all of a long call with its pictures.

        Pictures are asked for here, where the pipe is read.
        """
        while len(self._rendering) + len(self._open) < 2 * self._num_growing:
            number = self._num_added + len(self._rendering)
            if number == len(self._order.prompts):
                return
            if number >= self._num_fetched:
                self._num_fetched = number + PROMPTS_A_FETCH
                self._fetch_pictures(self._order.digests[number : self._num_fetched])
            images = [self._pictures[digest] for digest in self._order.digests[number]]
            self._rendering.append(renderer.submit(self._render, number, images))

    def _add_rendered(self) -> None:
        """Give the engine what is ready; wait for more only while it has room."""
        while self._rendering and (self._rendering[0].done() or len(self._open) < self._num_growing):
            self._add(self._num_added, self._rendering.popleft().result())
            self._num_added += 1

    def _add(self, number: int, rendered: Any) -> None:
        _require_same_tokens(number, rendered["prompt_token_ids"], self._order.prompts[number])
        request_id = str(number)
        try:
            self._engine.add_request(request_id, rendered, self._sampling(number), lora_request=self._adapter)
        except REFUSALS as error:
            raise _refusal(number, error) from error
        self._open.add(request_id)

    def _fetch_pictures(self, digests: Sequence[Sequence[str]]) -> None:
        """Have the pictures of some prompts, one row each; the prompts before them hold their own."""
        needed = [digest for row in digests for digest in row]
        if missing := self._pictures.missing(needed):
            self._pipe.send(Frame({"type": "need", "digests": missing}))
            sent = self._pipe.receive()
            assert sent.head == {"type": "pictures", "digests": missing}, "the pictures that were asked for"
            for number, digest in enumerate(missing):
                self._pictures.add(digest, sent.arrays[str(number)])
            self._pictures.forget_others(set(needed))

    def _render(self, number: int, images: list[Image.Image]) -> Any:
        """The prompt as vLLM's model reads it: pictures prepared, each image token in place of as many as it needs."""
        prompt: dict[str, Any] = {"prompt_token_ids": list(self._order.outlines[number])}
        if images:
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {"image": list(self._order.digests[number])}
        try:
            (rendered,) = self._llm.renderer.render_cmpl([parse_model_prompt(self._llm.model_config, prompt)])
        except (*REFUSALS, RuntimeError) as error:
            raise _refusal(number, error) from error
        return rendered

    def _sampling(self, number: int) -> SamplingParams:
        order = self._order
        return SamplingParams(
            n=1 if order.temperature == 0 else order.group_size,
            temperature=order.temperature,
            max_tokens=order.max_tokens,
            seed=order.seeds[number],
            ignore_eos=True,  # the checkpoint's; ours are among the stop tokens
            stop_token_ids=list(self._settings.end_token_ids),
            detokenize=False,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _send_group(self, output: RequestOutput) -> None:
        answers: list[Any] = list(output.outputs)
        if self._order.temperature == 0:
            answers *= self._order.group_size
        number = int(output.request_id)
        finish = [answer.finish_reason for answer in answers]
        if not set(finish) <= {"stop", "length"}:
            raise HostError(f"vLLM ended an answer to prompt {number} with {finish}", is_final=False)
        lengths = [len(answer.token_ids) for answer in answers]
        logprobs = np.concatenate([np.asarray(answer.logprobs.logprobs, np.float32) for answer in answers])
        assert len(logprobs) == sum(lengths), "one log-probability a token"
        if not np.isfinite(logprobs).all():
            raise HostError(
                "the model's log-probabilities are not finite: its weights have diverged; go back to an earlier "
                "checkpoint with a lower learner.learning_rate",
                is_final=True,
            )
        self._num_tokens += len(logprobs)
        arrays = {
            "token_ids": np.concatenate([np.asarray(answer.token_ids, np.int32) for answer in answers]),
            "logprobs": logprobs,
            "lengths": np.asarray(lengths, np.int32),
        }
        self._pipe.send(Frame({"type": "group", "prompt": number, "finish": finish}, arrays))


def _require_same_tokens(number: int, expanded: Sequence[int], expected: Sequence[int]) -> None:
    if list(expanded) == list(expected):
        return
    first = next(
        (place for place, (one, other) in enumerate(zip(expanded, expected, strict=False)) if one != other),
        min(len(expanded), len(expected)),
    )
    raise HostError(
        f"vLLM reads prompt {number} as {len(expanded)} tokens where the learner reads {len(expected)}; they differ "
        f"from position {first} on, so that the two would not see the same pictures",
        is_final=True,
    )


def _refusal(number: int, error: Exception) -> HostError:
    return HostError(f"vLLM refuses prompt {number}: {first_line(error)}", is_final=True)


def _num_open_tokens(engine: Any) -> int:
    """Tokens of the answers of all groups that are not complete."""
    states = list(engine.output_processor.request_states.values())
    groups = {id(state.parent_req): state.parent_req for state in states if state.parent_req is not None}
    growing = sum(state.detokenizer.num_output_tokens() for state in states)
    ended = sum(
        len(answer.token_ids) for group in groups.values() for answer in group.output_aggregator if answer is not None
    )
    return growing + ended


def _rows(values: NDArray[Any], lengths: NDArray[Any]) -> list[list[int]]:
    ends = np.cumsum(lengths).tolist()
    flat: list[int] = values.tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
