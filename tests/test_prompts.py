"""From data files to prompts: what leaves room for an answer, and what is refused or skipped."""

import json
import logging
from pathlib import Path

import pytest

from sightline.data import DataConfig
from sightline.errors import DataError
from sightline.models.config import ModelConfig
from sightline.prompts import Inputs, count_tokens, load_inputs, load_prompts, solution_ids
from sightline.types import Message, Problem
from tests.fakes import noise_png


@pytest.fixture
def inputs(tiny_folders: dict[str, Path]) -> Inputs:
    return load_inputs(ModelConfig(path=str(tiny_folders["qwen2_5_vl"])))


def _write(folder: Path, problems: list[str]) -> str:
    (folder / "picture.png").write_bytes(noise_png(56, 56, seed=0))
    rows = [{"problem": problem, "answer": "1", "image": "picture.png"} for problem in problems]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def test_the_context_is_the_models_largest_position(inputs: Inputs) -> None:
    assert inputs.context_tokens == 32768


def test_prompts_keep_the_order_of_rows_and_count_their_tokens(inputs: Inputs, tmp_path: Path) -> None:
    loaded = load_prompts(
        inputs, DataConfig(path=_write(tmp_path, ["Short?", "A longer question?"])), max_response_tokens=8
    )
    assert [prompt.problem.id for prompt in loaded.prompts] == ["rows-1", "rows-2"]
    lengths = [len(prompt.token_ids) for prompt in loaded.prompts]
    counts = count_tokens(inputs.family, loaded.prompts)
    assert (counts.mean_prompt, counts.max_prompt) == (sum(lengths) / 2, lengths[1])
    assert (counts.mean_per_image, counts.max_per_image) == (4.0, 4)


def test_the_longest_answer_that_fits_is_the_context_less_the_prompt(inputs: Inputs, tmp_path: Path) -> None:
    data = DataConfig(path=_write(tmp_path, ["How many?"]))
    length = len(load_prompts(inputs, data, max_response_tokens=1).prompts[0].token_ids)
    room = inputs.context_tokens - length
    assert len(load_prompts(inputs, data, max_response_tokens=room).prompts) == 1
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
    assert [prompt.problem.id for prompt in loaded.prompts] == ["rows-1", "rows-3"]
    assert len(loaded.unusable) == 1
    assert "rows.jsonl, row 2: the prompt has" in loaded.unusable[0]
    assert loaded.unusable[0] in caplog.text
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1: the prompt has"):
        load_prompts(inputs, config, max_response_tokens=32768)


def test_a_row_that_holds_the_image_token_stops_or_is_skipped_as_any_bad_row(inputs: Inputs, tmp_path: Path) -> None:
    path = _write(tmp_path, ["How many?", "What is <|image_pad|>?", "Which?"])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: .*image token"):
        load_prompts(inputs, DataConfig(path=path), max_response_tokens=8)
    loaded = load_prompts(inputs, DataConfig(path=path, on_bad_row="skip"), max_response_tokens=8)
    assert [prompt.problem.id for prompt in loaded.prompts] == ["rows-1", "rows-3"]


def test_a_solution_is_closed_by_the_end_of_the_turn(inputs: Inputs) -> None:
    def problem(solution: str | None) -> Problem:
        message = Message(role="user", content=("Question",))
        return Problem(id="a", messages=(message,), answer="1", solution=solution, source="rows.jsonl, row 4")

    ids = solution_ids(inputs.family, problem("<answer>1</answer>"))
    assert inputs.family.tokenizer.decode(list(ids[:-1])) == "<answer>1</answer>"
    assert (ids[-1],) == inputs.family.end_token_ids
    with pytest.raises(DataError, match=r"rows\.jsonl, row 4: has no solution"):
        solution_ids(inputs.family, problem(None))
    with pytest.raises(DataError, match=r"rows\.jsonl, row 4: .*image token"):
        solution_ids(inputs.family, problem("It is <|image_pad|>"))
