"""From data files to prompts: how long they are, what leaves room for an answer, what is refused or left out."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline import prompts
from sightline.data import DataConfig, LoadedData
from sightline.errors import DataError
from sightline.models.config import ModelConfig
from sightline.models.loading import load_family
from sightline.prompts import (
    Demand,
    Inputs,
    PromptSet,
    check_solutions,
    count_tokens,
    demand_of,
    load_inputs,
    load_prompts,
    solution_ids,
    warn_of_leakage,
)
from sightline.types import ImageRef, Message, Problem, Prompt, Role
from tests.conftest import FAMILIES
from tests.fakes import FamilyAround, TinyModel, noise_png, unchanging_tiny

# What tokenizers treat in a way of their own: their added tokens, line ends, blanks, composed and decomposed letters.
SPECIAL_TEXTS = (
    "<|im_end|>",
    "<|im_start|>user\n",
    "<|vision_start|>",
    "<|video_pad|>",
    "<|endoftext|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<row_1_col_2>",
    "<image",
    "_pad|>",
    "\n",
    "\n\n",
    " ",
    "  \t",
    "\u00e9 e\u0301 \u1e9b\u0323",
    "\U0001f600 问题",
    "How many?",
)
TEXTS = st.lists(st.sampled_from(SPECIAL_TEXTS) | st.text(max_size=8), max_size=4).map("".join)
PICTURES = st.tuples(st.integers(1, 900), st.integers(1, 900)).filter(lambda size: max(size) < 190 * min(size))
CONTENTS = st.lists(TEXTS.filter(bool) | PICTURES, min_size=1, max_size=5)
CONVERSATIONS = st.tuples(st.lists(TEXTS.filter(bool), max_size=1), st.lists(CONTENTS, min_size=1, max_size=2))


@pytest.fixture
def inputs(tiny_folders: dict[str, Path]) -> Inputs:
    return load_inputs(ModelConfig(path=str(tiny_folders["qwen2_5_vl"])))


@pytest.fixture(params=FAMILIES)
def any_tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> TinyModel:
    """Every family in turn, loaded once."""
    return unchanging_tiny(tiny_folders[request.param])


def _write(folder: Path, problems: Sequence[str], name: str = "rows") -> str:
    return _write_rows(folder, [{"problem": problem} for problem in problems], name)


def _write_rows(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "rows") -> str:
    (folder / "picture.png").write_bytes(noise_png(56, 56, seed=0))
    whole = [{"answer": "1", "image": "picture.png"} | dict(row) for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    return str(folder / f"{name}.jsonl")


def _ids(prompt_set: PromptSet) -> list[str]:
    return [problem.id for problem in prompt_set.problems]


def _problem(*content: str | ImageRef, place: str = "rows.jsonl, row 4", solution: str | None = None) -> Problem:
    message = Message(role="user", content=content)
    return Problem(id=place, messages=(message,), answers=("1",), solution=solution, place=place)


def _picture(width: int, height: int) -> ImageRef:
    """A reference to nothing: whoever opened it would fail."""
    return ImageRef(digest=f"{width} x {height}", width=width, height=height, place="rows.jsonl, row 4")


def _conversation(system: Sequence[str], turns: Sequence[Sequence[str | tuple[int, int]]]) -> Problem:
    def message(role: Role, content: Sequence[str | tuple[int, int]]) -> Message:
        return Message(role=role, content=tuple(x if isinstance(x, str) else _picture(*x) for x in content))

    messages = [message("system", [text]) for text in system]
    for number, turn in enumerate(turns):
        messages += [message("assistant", ["Yes."])] * (number > 0) + [message("user", turn)]
    return Problem(id="a", messages=tuple(messages), answers=("1",), place="rows.jsonl, row 4")


@given(conversations=st.lists(CONVERSATIONS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_counted_length_is_that_of_the_encoded_prompt(
    any_tiny: TinyModel, conversations: list[tuple[list[str], list[list[str | tuple[int, int]]]]]
) -> None:
    family = any_tiny.inputs.family
    problems = [_conversation(*conversation) for conversation in conversations]
    assert family.prompt_lengths(problems) == [len(family.encode_prompt(problem).token_ids) for problem in problems]


def test_a_length_that_can_not_be_counted_is_the_error_of_encoding(any_tiny: TinyModel) -> None:
    family = any_tiny.inputs.family
    token = str(family.tokenizer.convert_ids_to_tokens(family.image_token_id))
    problems = [_problem("One?"), _problem("What is ", token, "?"), _problem(_picture(56, 56), "Two?")]
    first, error, last = family.prompt_lengths(problems)
    with pytest.raises(DataError) as caught:
        family.encode_prompt(problems[1])
    assert isinstance(error, DataError)
    assert str(error) == str(caught.value)
    assert [first, last] == [len(family.encode_prompt(problem).token_ids) for problem in (problems[0], problems[2])]


def test_a_conversation_that_the_chat_template_refuses_is_named_and_the_others_counted(
    tiny_folders: dict[str, Path],
) -> None:
    family = load_family(ModelConfig(path=str(tiny_folders["qwen2_5_vl"])))
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    family.processor.chat_template = refusal + str(family.processor.chat_template)
    with_system = _conversation(["Be brief."], [["How many?"]])
    length, error = family.prompt_lengths([_problem("How many?"), with_system])
    assert length == len(family.encode_prompt(_problem("How many?")).token_ids)
    assert isinstance(error, DataError)
    assert "rows.jsonl, row 4: the model's chat template refuses" in str(error)
    assert "no system role here" in str(error)
    with pytest.raises(DataError, match="no system role here"):
        family.encode_prompt(with_system)


def test_the_context_is_the_models_largest_position(inputs: Inputs) -> None:
    assert inputs.context_tokens == 32768


def test_prompts_keep_the_order_of_rows_and_count_their_tokens(inputs: Inputs, tmp_path: Path) -> None:
    data = DataConfig(path=_write(tmp_path, ["Short?", "A longer question?"]))
    loaded = load_prompts(inputs, data, max_response_tokens=8)
    assert [prompt.problem.id for prompt in loaded] == _ids(loaded) == ["rows-1", "rows-2"]
    lengths = [len(prompt.token_ids) for prompt in loaded]
    assert loaded.lengths_P.tolist() == lengths
    assert len(loaded[1].token_ids) == lengths[1]
    counts = count_tokens(loaded)
    assert (counts.mean_prompt, counts.max_prompt) == (sum(lengths) / 2, lengths[1])
    assert (counts.mean_per_image, counts.max_per_image) == (4.0, 4)


def test_rows_counted_in_several_parts_keep_their_lengths(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "PROBLEMS_AT_ONCE", 3)
    data = DataConfig(path=_write(tmp_path, ["Which? " * number for number in range(1, 12)]))
    loaded = load_prompts(inputs, data, max_response_tokens=8)
    assert loaded.lengths_P.tolist() == [len(prompt.token_ids) for prompt in loaded]
    assert len(set(loaded.lengths_P.tolist())) == 11


class _NotingPrompts(FamilyAround):
    """Notes which problems are encoded."""

    encoded: tuple[str, ...] = ()

    def encode_prompt(self, problem: Problem) -> Prompt:
        self.encoded += (problem.id,)
        return self.inner.encode_prompt(problem)


def test_a_prompt_is_made_when_it_is_drawn_and_not_before(inputs: Inputs, tmp_path: Path) -> None:
    family = _NotingPrompts(inputs.family)
    data = DataConfig(path=_write(tmp_path, ["One?", "Two?", "Three?"]))
    loaded = load_prompts(replace(inputs, family=family), data, max_response_tokens=8)
    assert family.encoded == ()
    assert loaded[1].problem.id == "rows-2"
    assert family.encoded == ("rows-2",)


def test_lengths_need_no_picture_to_be_decoded(inputs: Inputs, tmp_path: Path) -> None:
    path = _write(tmp_path, ["How many?"])
    whole = load_prompts(inputs, DataConfig(path=path), max_response_tokens=8)
    (tmp_path / "picture.png").write_bytes(noise_png(56, 56, seed=1)[:100])
    cut = load_prompts(inputs, DataConfig(path=path, verify_images="header"), max_response_tokens=8)
    assert cut.lengths_P.tolist() == whole.lengths_P.tolist()


def test_the_longest_answer_that_fits_is_the_context_less_the_prompt(inputs: Inputs, tmp_path: Path) -> None:
    data = DataConfig(path=_write(tmp_path, ["How many?"]))
    length = len(load_prompts(inputs, data, max_response_tokens=1)[0].token_ids)
    room = inputs.context_tokens - length
    assert len(load_prompts(inputs, data, max_response_tokens=room)) == 1
    with pytest.raises(DataError) as caught:
        load_prompts(inputs, data, max_response_tokens=room + 1)
    message = str(caught.value)
    assert f"rows.jsonl, row 1: the prompt has {length} tokens (4 of images)" in message
    assert f"{room + 1} is more than the model's 32768" in message


def test_prompts_without_room_are_skipped_and_counted_if_the_data_says_so(
    inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path, ["How many?", "How many? " * 50, "How many?"])
    config = DataConfig(path=path, on_bad_row="skip")
    with caplog.at_level(logging.WARNING):
        loaded = load_prompts(inputs, config, max_response_tokens=32768 - 100)
    assert _ids(loaded) == ["rows-1", "rows-3"]
    assert len(loaded) == len(loaded.source_numbers) == len(loaded.lengths_P) == 2
    assert len(loaded.unusable) == 1
    assert "rows.jsonl, row 2: the prompt has" in loaded.unusable[0]
    assert loaded.unusable[0] in caplog.text
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1: the prompt has"):
        load_prompts(inputs, config, max_response_tokens=32768)


def test_prompts_longer_than_max_prompt_tokens_are_left_out_and_counted(
    inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path, ["How many?", "How many?" * 2, "How many?" * 3])
    lengths = load_prompts(inputs, DataConfig(path=path), max_response_tokens=8).lengths_P.tolist()
    with caplog.at_level(logging.INFO):
        loaded = load_prompts(inputs, DataConfig(path=path, max_prompt_tokens=lengths[1]), max_response_tokens=8)
    assert _ids(loaded) == ["rows-1", "rows-2"]
    assert (loaded.num_too_long, loaded.unusable) == (1, ())
    assert f"left out 1 prompts of more than {lengths[1]} tokens" in caplog.text
    with pytest.raises(DataError, match=f"max_prompt_tokens is {lengths[0] - 1}, and each of the 3 prompts is longer"):
        load_prompts(inputs, DataConfig(path=path, max_prompt_tokens=lengths[0] - 1), max_response_tokens=8)


def test_max_prompt_tokens_leaves_out_what_would_have_no_room_for_an_answer(inputs: Inputs, tmp_path: Path) -> None:
    path = _write(tmp_path, ["How many?", "How many? " * 50])
    room = 32768 - 100
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: .*data\.max_prompt_tokens"):
        load_prompts(inputs, DataConfig(path=path), max_response_tokens=room)
    loaded = load_prompts(inputs, DataConfig(path=path, max_prompt_tokens=100), max_response_tokens=room)
    assert (_ids(loaded), loaded.num_too_long) == (["rows-1"], 1)


def test_a_row_that_holds_the_image_token_stops_or_is_skipped_as_any_bad_row(inputs: Inputs, tmp_path: Path) -> None:
    path = _write(tmp_path, ["How many?", "What is <|image_pad|>?", "Which?"])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: .*image token"):
        load_prompts(inputs, DataConfig(path=path), max_response_tokens=8)
    loaded = load_prompts(inputs, DataConfig(path=path, on_bad_row="skip"), max_response_tokens=8)
    assert _ids(loaded) == ["rows-1", "rows-3"]


def test_a_picture_too_long_for_the_model_is_refused_at_loading_with_its_row(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "line.png").write_bytes(noise_png(1, 300, seed=0))
    path = _write_rows(tmp_path, [{"problem": "How many?"}, {"problem": "How many?", "image": "line.png"}])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: .*1 x 300 pixels"):
        load_prompts(inputs, DataConfig(path=path), max_response_tokens=8)


def test_training_problems_that_are_held_out_too_give_one_warning_with_their_places(
    inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training, heldout, others = (
        load_prompts(inputs, DataConfig(path=_write(tmp_path, problems, name)), max_response_tokens=8)
        for name, problems in (
            ("train", ["How many dots?", "Which colour?", "How  many dots? "]),
            ("heldout", ["How many dots?", "Which shape?"]),
            ("others", ["Where?"]),
        )
    )
    warn_of_leakage(training, heldout)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 3 training problems are held-out problems too" in record.message
    assert "train.jsonl, row 1 is " in record.message
    assert "heldout.jsonl, row 1" in record.message
    caplog.clear()
    warn_of_leakage(others, heldout)
    assert not caplog.records


def _prompt_set(inputs: Inputs, sources: Sequence[str]) -> PromptSet:
    problems = tuple(replace(_problem("Question"), source=source) for source in sources)
    data = LoadedData(problems=problems, source_numbers=(0,) * len(problems), bad_rows=(), num_rows=len(problems))
    return PromptSet(
        family=inputs.family,
        problems=problems,
        source_numbers=data.source_numbers,
        lengths_P=np.zeros(len(problems), dtype=np.int32),
        data=data,
        unusable=(),
        num_too_long=0,
    )


def test_sources_are_named_safely_and_apart_in_metrics(inputs: Inputs) -> None:
    labels = _prompt_set(inputs, ["geo", "a b", "a/b", "geo", "a_b_2", "数", "", "unnamed"]).source_labels
    assert labels == {
        "": "unnamed",
        "a b": "a_b",
        "a/b": "a_b_2",
        "a_b_2": "a_b_2_2",
        "geo": "geo",
        "unnamed": "unnamed_2",
        "数": "_",
    }


@pytest.mark.parametrize("sources", [["geo", "geo"], [str(number) for number in range(51)]], ids=["one", "51"])
def test_a_single_source_or_a_column_of_ids_gives_no_metrics_by_source(inputs: Inputs, sources: list[str]) -> None:
    prompt_set = _prompt_set(inputs, sources)
    assert prompt_set.source_labels == {}
    assert prompt_set.source_shares(prompt_set.problems) == {}


def test_shares_of_sources_are_those_of_the_drawn_problems(inputs: Inputs) -> None:
    prompt_set = _prompt_set(inputs, ["geo", "geo", "math", "text"])
    drawn = [prompt_set.problems[index] for index in (0, 1, 2, 0)]
    assert prompt_set.source_shares(drawn) == {"data/geo/share": 0.75, "data/math/share": 0.25, "data/text/share": 0.0}


def test_a_solution_is_closed_by_the_end_of_the_turn(inputs: Inputs) -> None:
    ids = solution_ids(inputs.family, _problem("Question", solution="<answer>1</answer>"))
    assert inputs.family.tokenizer.decode(list(ids[:-1])) == "<answer>1</answer>"
    assert (ids[-1],) == inputs.family.end_token_ids
    with pytest.raises(DataError, match=r"rows\.jsonl, row 4: has no solution"):
        solution_ids(inputs.family, _problem("Question"))
    with pytest.raises(DataError, match=r"rows\.jsonl, row 4: .*image token"):
        solution_ids(inputs.family, _problem("Question", solution="It is <|image_pad|>"))


def test_solutions_are_counted_and_the_first_that_is_too_long_is_named(inputs: Inputs) -> None:
    solutions = ["<answer>1</answer>", "It is one. <answer>1</answer>", "It is one, I say. <answer>1</answer>"]
    problems = [
        _problem("Question", place=f"rows.jsonl, row {number}", solution=solution)
        for number, solution in enumerate(solutions)
    ]
    lengths = [len(solution_ids(inputs.family, problem)) for problem in problems]
    assert check_solutions(inputs.family, problems, max_tokens=lengths[2]).tolist() == lengths
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1: the solution has {lengths[1]} tokens, more than"):
        check_solutions(inputs.family, problems, max_tokens=lengths[1] - 1)


def test_an_engine_is_asked_for_the_longest_prompt_and_the_most_pictures_of_all_sets(inputs: Inputs) -> None:
    picture = ImageRef(digest="d", width=1, height=1, place="test")
    first, second = (_prompt_set(inputs, ["a", "a"]) for _ in range(2))
    pictures = Message(role="user", content=(picture, picture, "Which?"))
    first = replace(first, lengths_P=np.array([7, 30], dtype=np.int32))
    second = replace(
        second,
        lengths_P=np.array([9, 8], dtype=np.int32),
        problems=(second.problems[0], replace(second.problems[1], messages=(pictures,))),
    )
    demand = demand_of([first, second], max_response_tokens=12)
    assert demand == Demand(max_prompt_tokens=30, max_response_tokens=12, max_images=2)
    assert demand.max_tokens == 42
    assert demand_of([first], max_response_tokens=12).max_images == 0
