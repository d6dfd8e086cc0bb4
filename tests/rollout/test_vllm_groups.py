"""What a vLLM process is asked, and what of its answers is taken for rollouts.

Shapes: N tokens of all answers of a group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from sightline.errors import RunError
from sightline.images import ImageStore
from sightline.models.family import Family
from sightline.rollout.engine import Sampling
from sightline.rollout.frames import Frame
from sightline.rollout.sampling import stream_seed
from sightline.rollout.vllm_groups import GroupReader, Request, deal, generate_frame, pictures_frame
from sightline.types import Prompt
from tests.fakes import noise_png, plain_prompt
from tests.rollout.fake_engine import END, FORBIDDEN, PaperFamily

SAMPLING = Sampling(group_size=2, temperature=0.5, max_response_tokens=3, seed=4, stream="step 2")
FAMILY = cast("Family", PaperFamily())


def _requests(prompts: Sequence[Prompt], first_indices: Sequence[int] | None = None) -> list[Request]:
    firsts = first_indices or [0] * len(prompts)
    return [Request(number, prompt, first) for number, (prompt, first) in enumerate(zip(prompts, firsts, strict=True))]


def _group(**changes: Any) -> Frame:
    """Two answers, the second cut off; with changes."""
    parts: dict[str, Any] = {
        "finish": ["stop", "length"],
        "token_ids": [11, END, 12, 13, 11],
        "logprobs": [-0.5, -1.0, -0.25, 0.0, -2.0],
        "lengths": [2, 3],
    } | changes
    arrays = {
        "token_ids": np.array(parts["token_ids"], np.int32),
        "logprobs": np.array(parts["logprobs"], np.float32),
        "lengths": np.array(parts["lengths"], np.int32),
    }
    return Frame({"type": "group", "prompt": 0, "finish": parts["finish"]}, arrays)


def _read(frame: Frame) -> Any:
    return GroupReader(FAMILY, SAMPLING, policy_version=7).read(_requests([plain_prompt("a")])[0], frame)


def test_a_group_becomes_rollouts_token_for_token() -> None:
    first, second = _read(_group())
    assert (first.token_ids, second.token_ids) == ((11, END), (12, 13, 11))
    assert (first.logprobs, second.logprobs) == ((-0.5, -1.0), (-0.25, 0.0, -2.0))
    assert (first.response_mask, second.response_mask) == ((True, True), (True, True, True))
    assert (first.text, second.text) == ("11", "12 13 11")
    assert (first.finish_reason, second.finish_reason) == ("stop", "length")
    assert [rollout.index for rollout in (first, second)] == [0, 1]
    assert {rollout.policy_version for rollout in (first, second)} == {7}
    assert first.prompt == plain_prompt("a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": [FORBIDDEN, END, 12, 13, 11]}, "token 9, which can't be sampled"),
        ({"token_ids": [11, END, 12, 13, FORBIDDEN]}, "token 9, which can't be sampled"),
        ({"token_ids": [-1, END, 12, 13, 11]}, "token -1"),
        ({"lengths": [5]}, "has 1 answers and 2 were asked for"),
        ({"lengths": [2, 1, 2]}, "has 3 answers and 2 were asked for"),
        ({"lengths": [[2], [3]]}, "answers and 2 were asked for"),
        ({"lengths": [0, 3], "token_ids": [12, 13, 11], "logprobs": [0, 0, 0]}, r"\[0, 3\] tokens and may have 1 to 3"),
        ({"lengths": [1, 4]}, r"\[1, 4\] tokens and may have 1 to 3"),
        ({"lengths": [2, 2]}, "5 tokens and 5 log-probabilities for 4"),
        ({"token_ids": [11, END, 12, 13]}, "4 tokens and 5 log-probabilities for 5"),
        ({"logprobs": [-0.5]}, "5 tokens and 1 log-probabilities for 5"),
        ({"finish": ["length", "length"]}, "finished by"),
        ({"finish": ["stop", "stop"]}, "finished by"),
        ({"finish": ["stop"]}, "finished by"),
        ({"finish": ["stop", "abort"]}, "finished by"),
        ({"token_ids": [END, END, 12, 13, 11]}, "goes on after its end"),
        ({"token_ids": [11, END, 12, END, 11]}, "goes on after its end"),
        ({"finish": None}, "missing"),
    ],
)
def test_a_group_that_is_not_what_was_asked_for_is_refused(changes: Mapping[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        _read(_group(**changes))
    assert str(caught.value).startswith("test, a: ")


def test_a_group_without_its_arrays_is_refused() -> None:
    with pytest.raises(RunError, match="missing"):
        _read(Frame({"type": "group", "prompt": 0, "finish": ["stop", "stop"]}))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_log_probabilities_that_are_not_finite_say_that_the_weights_diverged(value: float) -> None:
    with pytest.raises(RunError, match="not finite after 7 updates"):
        _read(_group(logprobs=[-0.5, value, 0, 0, 0]))


def test_a_request_tells_outlines_prompts_pictures_and_seeds() -> None:
    store = ImageStore()
    picture = store.add_bytes(noise_png(4, 3, seed=0), place="test")
    with_picture = plain_prompt("b", (4, 5))
    with_picture = Prompt(problem=with_picture.problem, token_ids=(4, 5), images=(picture, picture))
    frame = generate_frame(FAMILY, _requests([plain_prompt("a"), with_picture], [0, 6]), SAMPLING)
    assert frame.head == {
        "type": "generate",
        "group_size": 2,
        "temperature": 0.5,
        "max_tokens": 3,
        "images": [[], [picture.digest, picture.digest]],
    }
    assert {name: (array.dtype.name, array.tolist()) for name, array in frame.arrays.items()} == {
        "outline_ids": ("int32", [1, 4]),
        "outline_lengths": ("int32", [1, 1]),
        "prompt_ids": ("int32", [1, 2, 3, 4, 5]),
        "prompt_lengths": ("int32", [3, 2]),
        "seeds": ("int64", [stream_seed(4, "step 2", "a", 0), stream_seed(4, "step 2", "b", 6)]),
    }


def test_pictures_are_given_as_rgb_pixels_in_the_order_asked_for() -> None:
    store = ImageStore()
    first, second = (store.add_bytes(noise_png(4, 3, seed=seed), place="test") for seed in (0, 1))
    frame = pictures_frame(store, {ref.digest: ref for ref in (first, second)}, [second.digest, first.digest])
    assert frame.head == {"type": "pictures", "digests": [second.digest, first.digest]}
    for name, ref in (("0", second), ("1", first)):
        assert frame.arrays[name].dtype == np.uint8
        assert np.array_equal(frame.arrays[name], np.asarray(store.open(ref)))
        assert frame.arrays[name].shape == (3, 4, 3)


def test_requests_are_shared_out_evenly_and_the_long_ones_apart() -> None:
    requests = _requests([plain_prompt(str(length), [1] * length) for length in (1, 50, 2, 60, 3)])
    shares = deal(requests, 2, SAMPLING)
    assert sorted(len(share) for share in shares) == [2, 3] or sorted(len(share) for share in shares) == [1, 4]
    assert Counter(request.number for share in shares for request in share) == dict.fromkeys(range(5), 1)
    long_ones = [sum(len(request.prompt.token_ids) >= 50 for request in share) for share in shares]
    assert long_ones == [1, 1]


def test_prompts_of_one_length_are_dealt_in_equal_numbers() -> None:
    shares = deal(_requests([plain_prompt(str(number)) for number in range(7)]), 3, SAMPLING)
    assert sorted(len(share) for share in shares) == [2, 2, 3]


def test_fewer_prompts_than_processes_leave_some_without_any() -> None:
    assert [len(share) for share in deal(_requests([plain_prompt("a")]), 3, SAMPLING)] == [1, 0, 0]
