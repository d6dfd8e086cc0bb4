"""`synthesize` against a real local server: what is asked, what is kept, in which files."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.curation.synthesis.synthesize import summary_text, synthesize
from sightline.data import DataConfig, load_problems
from sightline.errors import RunError
from sightline.images import ImageStore
from sightline.types import Message, Problem
from tests.curation.scripted_server import (
    Asked,
    Says,
    ScriptedServer,
    answer_to,
    card_number,
    cards,
    completion,
    failure,
    four_fates,
    knows_all,
    rewrite_of,
)
from tests.curation.synthesis_runs import config_for, rows_of, run


def test_accepted_rows_load_as_problems_with_new_question_answer_and_solution(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        summary = run(server, tmp_path / "out.jsonl")
    assert (summary.num_problems, summary.num_accepted, summary.num_unfinished) == (3, 3, 0)
    images = ImageStore()
    problems = load_problems(DataConfig(path=str(tmp_path / "out.jsonl")), images).problems
    assert [problem.id for problem in problems] == ["card-0", "card-1", "card-2"]
    problem = problems[2]
    assert problem.messages[0].content[1] == "Which number is written on card 2? Give it in digits."
    assert (problem.answers, problem.answer_kind, problem.source) == (("1002",), "number", "cards")
    assert problem.solution is not None
    assert problem.solution.startswith("<think>I read the digits one by one [")
    assert problem.solution.endswith("</think>\n<answer>1002</answer>")
    assert images.open(problem.images[0]).getpixel((0, 0)) == (2, 0, 0)


def test_an_accepted_row_keeps_verdicts_the_original_and_its_other_columns(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", num_samples=2)
    assert rows_of(tmp_path / "out.jsonl")[1]["metadata"] == {
        "difficulty": 1,
        "synthesis": {
            "model": "scripted",
            "rejection": None,
            "detail": None,
            "num_attempts": 1,
            "agrees_with_original": True,
            "sample_answers": ["1001", "1001"],
            "agreement": 1.0,
            "original": {
                "question": "<image>What number is on card 1?",
                "answers": ["1001"],
                "answer_kind": "number",
                "choices": [],
                "solution": None,
            },
        },
    }


def test_pictures_are_sent_and_the_gold_answer_only_for_the_rewrite(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", num_problems=2, num_samples=3)
    rewrites = [asked for asked in server.asked if asked.is_rewrite]
    answers = [asked for asked in server.asked if not asked.is_rewrite]
    assert (len(rewrites), len(answers)) == (2, 6)
    for asked in server.asked:
        (url,) = asked.picture_urls
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
        assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (card_number(asked), 0, 0)
    assert all(str(1000 + card_number(asked)) in asked.text for asked in rewrites)
    assert not any(str(1000 + card_number(asked)) in asked.text for asked in answers)
    assert all("Which number is written on card" in asked.text for asked in answers)


def test_every_call_has_its_own_seed_the_models_name_and_its_options(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", max_response_tokens=77, json_mode=True, answer_temperature=None)
    assert len({asked.body["seed"] for asked in server.asked}) == len(server.asked) == 15
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}
    for asked in server.asked:
        options = {name: value for name, value in asked.body.items() if name not in ("messages", "seed")}
        common = {"model": "scripted", "max_tokens": 77}
        extra = {"temperature": 0.2, "response_format": {"type": "json_object"}} if asked.is_rewrite else {}
        assert options == common | extra


def test_each_rejected_row_has_its_reason_and_is_as_it_was(tmp_path: Path) -> None:
    with ScriptedServer(four_fates) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=4, num_samples=4)
    assert summary.rejected_by_reason == {"unparseable": 1, "disagrees_with_original": 1, "low_agreement": 1}
    assert (summary.num_accepted, summary.num_rejected) == (1, 3)
    rows = rows_of(tmp_path / "out.rejected.jsonl")
    verdicts = [row["metadata"]["synthesis"] for row in rows]
    assert [verdict["rejection"] for verdict in verdicts] == ["unparseable", "disagrees_with_original", "low_agreement"]
    assert verdicts[0]["detail"] == "the reply holds 0 JSON objects with a question, not one"
    assert verdicts[1]["detail"] == "7 is not 1002"
    assert (verdicts[1]["agrees_with_original"], verdicts[1]["agreement"]) == (False, None)
    assert verdicts[1]["rewrite"]["question"] == "Which number is written on card 2? Give it in digits."
    assert verdicts[2]["agreement"] == sum(answer == "1003" for answer in verdicts[2]["sample_answers"]) / 4 < 0.5
    reloaded = load_problems(DataConfig(path=str(tmp_path / "out.rejected.jsonl")), ImageStore()).problems
    assert [(problem.messages[0].content[1], problem.answers) for problem in reloaded] == [
        (f"What number is on card {number}?", (str(1000 + number),)) for number in (1, 2, 3)
    ]


def test_no_answers_are_paid_for_once_a_rewrite_is_rejected(tmp_path: Path) -> None:
    with ScriptedServer(lambda asked: completion(rewrite_of(asked, answer="7"))) as server:
        run(server, tmp_path / "out.jsonl")
    assert len(server.asked) == 3


def test_a_reply_that_can_not_be_read_is_asked_again_with_another_seed(tmp_path: Path) -> None:
    seen: list[int] = []

    def third_time_lucky(asked: Asked) -> Says:
        if not asked.is_rewrite:
            return completion(answer_to(asked))
        seen.append(asked.body["seed"])
        return completion(rewrite_of(asked) if len(seen) == 3 else "```json\n{broken")

    with ScriptedServer(third_time_lucky) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=1, num_attempts=3)
    assert summary.num_accepted == 1
    assert len(set(seen)) == 3
    assert rows_of(tmp_path / "out.jsonl")[0]["metadata"]["synthesis"]["num_attempts"] == 3


@pytest.mark.parametrize(
    ("num_right", "bounds", "reason"),
    [
        (2, {}, None),
        (1, {}, "low_agreement"),
        (4, {"max_agreement": 0.75}, "too_easy"),
        (3, {"max_agreement": 0.75}, None),
        (0, {"min_agreement": 0.0}, None),
    ],
)
def test_agreement_is_right_answers_over_all_and_must_be_within_its_bounds(
    tmp_path: Path, num_right: int, bounds: dict[str, float], reason: str | None
) -> None:
    answered: list[Asked] = []

    def some_right(asked: Asked) -> Says:
        if asked.is_rewrite:
            return completion(rewrite_of(asked))
        answered.append(asked)
        if len(answered) <= num_right:
            return completion(answer_to(asked))
        return completion("<think>I am still thin", finish_reason="length")  # without an answer: wrong

    with ScriptedServer(some_right) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=1, concurrency=1, **bounds)
    assert summary.rejected_by_reason == ({reason: 1} if reason else {})
    path = tmp_path / ("out.rejected.jsonl" if reason else "out.jsonl")
    assert rows_of(path)[0]["metadata"]["synthesis"]["agreement"] == num_right / 4


def test_a_choice_row_has_its_options_in_the_question_and_its_letter_as_answer(tmp_path: Path) -> None:
    def as_choice(asked: Asked) -> Says:
        if not asked.is_rewrite:
            assert "\nA. 7\nB. 1000" in asked.text
            return completion(answer_to(asked, "(B)"))
        return completion(rewrite_of(asked, answer_kind="choice", answer="1000", choices=["7", "1000"]))

    with ScriptedServer(as_choice) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=1)
    assert summary.num_accepted == 1
    (problem,) = load_problems(DataConfig(path=str(tmp_path / "out.jsonl")), ImageStore()).problems
    assert (problem.answers, problem.answer_kind, problem.choices) == (("B",), "choice", ("7", "1000"))
    assert str(problem.messages[0].content[1]).endswith("\nA. 7\nB. 1000")


def test_problems_that_no_rewrite_could_be_checked_against_cost_nothing(tmp_path: Path) -> None:
    message = Message(role="user", content=("Where is the cat?",))
    problems = [
        Problem(id="box", messages=(message,), answers=("[1, 2, 3, 4]",), answer_kind="box"),
        Problem(id="open", messages=(message,), answers=(), answer_kind="none"),
        Problem(id="empty", messages=(message,), answers=(".",)),
    ]
    with ScriptedServer(knows_all) as server:
        summary = synthesize(problems, ImageStore(), tmp_path / "out.jsonl", config=config_for(server))
    assert summary.rejected_by_reason == {"no_gold_answer": 2, "unsupported_kind": 1}
    assert server.asked == []


def test_rows_keep_the_sources_order_whatever_order_replies_come_in(tmp_path: Path) -> None:
    def later_ones_first(asked: Asked) -> Says:
        return completion(
            rewrite_of(asked) if asked.is_rewrite else answer_to(asked), delay=0.1 - 0.015 * card_number(asked)
        )

    with ScriptedServer(later_ones_first) as server:
        run(server, tmp_path / "out.jsonl", num_problems=6, num_samples=1)
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl")] == [f"card-{number}" for number in range(6)]


def test_a_picture_of_many_rows_is_written_once(tmp_path: Path) -> None:
    images = ImageStore()
    (problem,) = cards(1, images)
    twice = [problem, Problem(id="again", messages=problem.messages, answers=problem.answers)]
    with ScriptedServer(knows_all) as server:
        synthesize(twice, images, tmp_path / "out.jsonl", config=config_for(server))
    (picture,) = (tmp_path / "out.images").iterdir()
    assert [row["images"] for row in rows_of(tmp_path / "out.jsonl")] == [[f"out.images/{picture.name}"]] * 2


def test_tokens_and_cost_are_added_up_over_all_runs(tmp_path: Path) -> None:
    prices = {"price_per_million_input_tokens": 2.0, "price_per_million_output_tokens": 10.0}
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", num_problems=1, num_samples=1, **prices)
        summary = run(server, tmp_path / "out.jsonl", num_problems=3, num_samples=1, **prices)
    assert (summary.num_replies, summary.num_calls_this_run) == (6, 4)
    assert (summary.prompt_tokens, summary.completion_tokens) == (600, 60)
    assert summary.cost == pytest.approx(600 * 2e-6 + 60 * 10e-6)


def test_a_server_that_tells_no_usage_is_counted_as_such(tmp_path: Path) -> None:
    def silent(asked: Asked) -> Says:
        return completion(rewrite_of(asked) if asked.is_rewrite else answer_to(asked), usage=None)

    with ScriptedServer(silent) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=2, num_samples=1)
    assert (summary.num_replies, summary.num_replies_without_usage, summary.prompt_tokens) == (4, 4, 0)
    assert summary.cost is None


def test_a_limit_stops_asking_and_raising_it_goes_on_from_there(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(knows_all) as server:
        stopped = run(server, out, num_problems=6, num_samples=1, concurrency=1, max_total_tokens=500)
        assert stopped.stopped_by == "max_total_tokens 500 is reached; raise it to go on"
        assert (len(server.asked), stopped.num_accepted, stopped.num_unfinished) == (5, 2, 4)  # 110 tokens a call
        assert len(rows_of(out)) == 2
        summary = run(server, out, num_problems=6, num_samples=1)
        assert (len(server.asked), summary.num_accepted, summary.stopped_by) == (12, 6, None)


def test_a_question_that_tells_its_answer_is_asked_for_again(tmp_path: Path) -> None:
    def tells(asked: Asked) -> Says:
        number = card_number(asked)
        return completion(rewrite_of(asked, question=f"What is on card {number}? (gold was {1000 + number})"))

    with ScriptedServer(tells) as server:
        summary = run(server, tmp_path / "out.jsonl", num_problems=1, num_attempts=2)
    assert (summary.rejected_by_reason, len(server.asked)) == ({"unparseable": 1}, 2)
    verdict = rows_of(tmp_path / "out.rejected.jsonl")[0]["metadata"]["synthesis"]
    assert verdict["detail"] == "question tells the answer"


def test_the_summary_counts_what_is_unfinished_and_leaves_the_reason_to_stopped_by(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        stopped = run(server, tmp_path / "out.jsonl", num_samples=1, concurrency=1, max_total_tokens=300)
    lines = summary_text(stopped).splitlines()
    assert lines[0] == "3 problems: 1 accepted, 0 rejected, 2 unfinished"
    assert not any("go on" in line or "goes on" in line for line in lines)


def test_a_limit_that_is_reached_with_the_last_call_stops_nothing(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        summary = run(server, tmp_path / "out.jsonl", num_samples=1, concurrency=1, max_total_tokens=660)
    assert (summary.num_unfinished, summary.stopped_by) == (0, None)


def test_a_cost_limit_stops_likewise(tmp_path: Path) -> None:
    prices = {"price_per_million_input_tokens": 10_000.0, "price_per_million_output_tokens": 0.0}  # 1 a call
    with ScriptedServer(knows_all) as server:
        summary = run(server, tmp_path / "out.jsonl", concurrency=1, num_samples=1, max_cost=3.0, **prices)
    assert (len(server.asked), summary.cost) == (3, 3.0)
    assert summary.stopped_by == "max_cost 3 is reached; raise it to go on"


def test_a_limit_that_can_not_be_kept_ends_therun(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda asked: completion(rewrite_of(asked), usage=None)) as server,
        pytest.raises(RunError, match="does not say how many tokens a call took"),
    ):
        run(server, tmp_path / "out.jsonl", max_total_tokens=1000, concurrency=1)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "other"}, 'model "scripted", not "other"'),
        ({"seed": 1}, "seed 0, not 1"),
        ({"num_samples": 8}, "num_samples 4, not 8"),
        ({"answer_temperature": 0.5}, "answer_temperature 1.0, not 0.5"),
    ],
)
def test_options_that_change_replies_are_refused_for_the_same_out(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", num_problems=1)
        num_asked = len(server.asked)
        with pytest.raises(RunError, match=named):
            run(server, tmp_path / "out.jsonl", num_problems=1, **changes)
        assert len(server.asked) == num_asked


def test_one_refused_request_rejects_its_row_and_the_others_go_on(tmp_path: Path) -> None:
    def refuses_card_1(asked: Asked) -> Says:
        return failure(400, "content policy") if card_number(asked) == 1 else knows_all(asked)

    with ScriptedServer(refuses_card_1) as server:
        summary = run(server, tmp_path / "out.jsonl", concurrency=1)
        num_asked = len(server.asked)
        assert (summary.num_accepted, summary.rejected_by_reason) == (2, {"refused_by_server": 1})
        assert rows_of(tmp_path / "out.rejected.jsonl")[0]["metadata"]["synthesis"]["detail"] == "400: content policy"
        run(server, tmp_path / "out.jsonl", concurrency=1)
        assert len(server.asked) == num_asked
