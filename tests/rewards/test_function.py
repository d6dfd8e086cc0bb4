import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from sightline.errors import ConfigError
from sightline.grading.pool import WorkerReply
from sightline.grading.verdict import Verdict
from sightline.images import ImageStore
from sightline.rewards.component import Answer, RewardContext, Score
from sightline.rewards.function import _FIELDS, Function, FunctionSource
from sightline.rewards.function_forms import BATCH_NAMES, MESSAGES
from sightline.rewards.function_worker import handler
from sightline.types import ImageRef, Message, Problem
from tests.pictures import encode
from tests.rewards.examples import rollout

_FILE = Path(__file__).parent / "user_functions.py"
_SHORT_SECONDS = 1.0


def _answer(text: str, *, is_correct: bool = True, images: Sequence[ImageRef] = (), gold: str = "3") -> Answer:
    problem = Problem(
        id="p1",
        messages=(Message(role="user", content=(*images, "How many?")),),
        answers=(gold,),
        answer_kind="number",
        metadata={"difficulty": 2},
    )
    plain = rollout(text)
    prompt = replace(plain.prompt, problem=problem, images=problem.images, text="<user>How many?<assistant>")
    outcome = "correct" if is_correct else "wrong"
    return Answer(rollout=replace(plain, prompt=prompt), verdict=Verdict(outcome=outcome, answer=text[-1:]))


@contextmanager
def _source(name: str, *, images: ImageStore | None = None, **options: Any) -> Iterator[FunctionSource]:
    component = Function(name="function", weight=1.0, function=f"{_FILE}:{name}", **options)
    source = component.source(RewardContext(max_response_tokens=None, images=images))
    try:
        yield source
    finally:
        source.close()


@pytest.fixture(scope="module", autouse=True)
def _end_shared_processes() -> Iterator[None]:
    yield
    for source in _shared.values():
        source.close()
    _shared.clear()


_shared: dict[str, FunctionSource] = {}


def _scores(name: str, texts: Sequence[str], **options: Any) -> list[Score]:
    """Without options, by a process that tests share: to start one takes longer than all else."""
    if options:
        with _source(name, **options) as source:
            return list(source.scores([_answer(text) for text in texts]))
    if name not in _shared:
        component = Function(name="function", weight=1.0, function=f"{_FILE}:{name}")
        _shared[name] = component.source(RewardContext(max_response_tokens=None))
    return list(_shared[name].scores([_answer(text) for text in texts]))


def _values(name: str, texts: Sequence[str], **options: Any) -> list[float | None]:
    scores = _scores(name, texts, **options)
    assert [score.reason for score in scores] == [None] * len(scores)
    return [score.value for score in scores]


@pytest.mark.parametrize(
    ("name", "texts", "values"),
    [
        ("gold_and_span", ["it is 3", "it is 4"], [11.0, 10.0]),
        ("reads_metadata", ["a"], [2.0]),
        ("lengths_of_many", ["a", "bb", "ccc"], [1.0, 2.0, 3.0]),
        ("trl_lengths", ["a", "bb"], [1.0, 2.0]),
        ("trl_columns", ["a", "bb"], [5.0, 5.0]),
        ("trl_column_of_kwargs", ["a", "bb"], [2.0, 2.0]),
        ("trl_token_counts", ["a"], [4.0]),
        ("waits_with_others", ["a"], [1.0]),
        ("many_at_once", ["a", "bb"], [2.0, 2.0]),
        ("scaled_object", ["aa"], [6.0]),
        ("partial_of_one", ["aa"], [7.0]),
    ],
)
def test_a_function_gets_what_its_parameters_name(name: str, texts: Sequence[str], values: list[float]) -> None:
    assert _values(name, texts, **({"arguments": {"more": 5.0}} if name == "partial_of_one" else {})) == values


def test_the_verdict_of_the_grader_is_given() -> None:
    with _source("half_if_right") as source:
        scores = source.scores([_answer("3"), _answer("4", is_correct=False)])
    assert [score.value for score in scores] == [0.5, 0.0]


def test_kwargs_of_a_function_of_one_get_all_but_pictures_and_token_ids() -> None:
    [score] = _scores("sees_all_of_one", ["a"])
    assert set(score.details) == BATCH_NAMES.keys() - {"response", "images", "token_ids"}


def test_every_name_that_a_function_may_ask_for_can_be_given() -> None:
    assert _FIELDS.keys() | {"images"} == BATCH_NAMES.keys() | {MESSAGES}


def test_openrlhf_functions_get_query_prompt_and_label_and_their_logs_are_kept() -> None:
    right, wrong = _scores("reward_func", ["3", "44"])
    assert right == Score(value=1.0, details={"scores": 1.0, "length": 27.0})
    assert wrong == Score(value=0.0, details={"scores": 0.0, "length": 28.0})


def test_trl_functions_get_messages_where_that_is_asked_for() -> None:
    assert _values("trl_turns", ["a", "bb"], completions="messages") == [1.0, 2.0]


def test_arguments_of_the_recipe_are_given() -> None:
    assert _values("has_own_arguments", ["abc"], arguments={"factor": 2}) == [6.0]


def test_a_module_is_found_in_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scale.py").write_text("SCALE = 4.0\n", encoding="utf-8")
    (tmp_path / "my_reward.py").write_text(
        "from scale import SCALE\ndef score(response):\n    return SCALE\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    for reference in ("my_reward:score", "my_reward.py:score"):
        source = Function(name="function", weight=1.0, function=reference).source(
            RewardContext(max_response_tokens=None)
        )
        assert [score.value for score in source.scores([_answer("a")])] == [4.0]
        source.close()


def test_pictures_are_given_as_files() -> None:
    images = ImageStore()
    refs = [images.add_bytes(encode(Image.new("RGB", (width, 8), "red")), place="test") for width in (10, 12)]
    with _source("picture_sizes", images=images) as source:
        scores = source.scores([_answer("a", images=refs), _answer("b", images=refs[:1]), _answer("c")])
    assert [score.value for score in scores] == [22.0, 10.0, 0.0]


def test_a_picture_that_is_gone_leaves_its_answer_unscored(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(encode(Image.new("RGB", (10, 8), "red")))
    images = ImageStore()
    ref = images.add_file(file, place="row 1")
    file.unlink()
    with _source("picture_sizes", images=images) as source:
        gone, fine = source.scores([_answer("a", images=[ref]), _answer("b")])
    assert str(gone.reason).startswith("picture: row 1: ")
    assert fine.value == 0.0


def test_calls_run_in_as_many_processes_as_told_at_the_same_time(tmp_path: Path) -> None:
    options: dict[str, Any] = {"processes": 2, "arguments": {"folder": str(tmp_path)}, "timeout_seconds": 60}
    assert _values("meets_another_process", ["a"] * 2, **options) == [2.0, 2.0]


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (_FILE.parents[2] / "docs" / "reward_functions.md").read_text(encoding="utf-8")
    file = tmp_path / "my_rewards.py"
    file.write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    source = Function(name="function", weight=1.0, function=f"{file}:brevity").source(
        RewardContext(max_response_tokens=None)
    )
    short, long, wrong = source.scores([_answer("3"), _answer("so " * 39 + "3"), _answer("4", is_correct=False)])
    source.close()
    assert short == Score(value=1.0, details={"words": 1.0})
    assert long == Score(value=0.5, details={"words": 40.0})
    assert wrong == Score(value=0.0)


def test_a_batch_is_cut_into_calls_of_batch_size() -> None:
    assert _values("number_of_answers", ["a"] * 5, batch_size=2) == [2.0, 2.0, 2.0, 2.0, 1.0]


def test_asynchronous_calls_wait_at_the_same_time() -> None:
    with _source("waits_with_others") as source:
        source.check()
        start = time.monotonic()
        source.scores([_answer("a")] * 20)
        assert time.monotonic() - start < 20 * 1.0 / 2


@pytest.mark.parametrize(
    ("told", "value"), [("true", 1.0), ("integer", 7.0), ("decimal", 0.25), ("fraction", 0.25), ("numpy", 0.25)]
)
def test_what_counts_as_a_number_is_the_value(told: str, value: float) -> None:
    assert _scores("returns_what_it_is_told", [told]) == [Score(value=value)]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("none", "function: it returned None"),
        ("nan", "function: it returned nan"),
        ("infinite", "function: it returned -inf"),
        ("huge", "function: it returned inf"),
        ("text", "function: it returned a str, which is no number"),
        ("list", "function: it returned a list, which is no number"),
        ("no reward", "function: it returned a mapping without `reward`"),
    ],
)
def test_what_is_no_finite_number_is_unscored(told: str, reason: str) -> None:
    assert _scores("returns_what_it_is_told", [told]) == [Score(value=None, reason=reason)]


def test_further_finite_numbers_of_a_mapping_are_details() -> None:
    assert _scores("returns_what_it_is_told", ["details"]) == [Score(value=0.5, details={"style": 1.0})]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("wrong length", "function: it returned 1 values for 3 answers"),
        ("number", "function: it returned a float for 3 answers; return a list"),
        ("no rewards", "function: it returned a mapping without `rewards`"),
    ],
)
def test_a_batch_that_can_not_be_read_leaves_all_its_answers_unscored(told: str, reason: str) -> None:
    assert _scores("returns_for_many", [told, "", ""]) == [Score(value=None, reason=reason)] * 3


def test_a_batch_with_gaps_scores_the_others() -> None:
    first, second, third = _scores("returns_for_many", ["partial", "", ""])
    assert first == Score(value=1.0)
    assert [second.reason, third.reason] == ["function: it returned None", "function: it returned nan"]


def test_a_batch_may_return_an_array() -> None:
    assert _values("returns_for_many", ["array", "", ""]) == [1.0, 2.0, 3.0]


def test_a_batch_may_return_a_mapping_for_each_answer() -> None:
    assert _scores("returns_for_many", ["mappings", "", ""]) == [
        Score(value=1.0, details={"style": 2.0}),
        Score(value=3.0),
        Score(value=None, reason="function: it returned None"),
    ]


def test_a_log_of_one_number_counts_for_all_and_one_of_another_length_for_none() -> None:
    scores = _scores("returns_for_many", ["one log for all", "", ""])
    assert scores == [Score(value=value, details={"temperature": 5.0}) for value in (1.0, 2.0, 3.0)]


def test_calls_that_misbehave_cost_only_their_own_answers() -> None:
    start = time.monotonic()
    told = ["a", "hang", "b", "spin", "crash", "exit", "raise", "eat", "print", "c"]
    scores = _scores("misbehaves", told, timeout_seconds=_SHORT_SECONDS, memory_mib=512)
    assert time.monotonic() - start < 90
    assert {text: score.reason for text, score in zip(told, scores, strict=True)} == {
        "a": None,
        "hang": "timeout: the function took more than 1 s",
        "b": None,
        "spin": "timeout: the function took more than 1 s",
        "crash": "crash: its process ended with code 7",
        "exit": "function: it raised SystemExit: enough",
        "raise": "function: it raised ValueError: a message in two lines",
        "eat": "memory: the function needs more memory than its process has",
        "print": None,
        "c": None,
    }
    assert [score.value for score in scores if score.reason is None] == [1.0] * 4


class ScriptedPool:
    """Answers the calls of a function of one answer as its text says, and keeps what it was asked."""

    asked: list[str]

    def __init__(self, *_: object, **__: object) -> None:
        self.asked = []

    def run(self, requests: Sequence[Any]) -> list[WorkerReply]:
        return [self._reply(request) for request in requests]

    def close(self) -> None:
        pass

    def _reply(self, request: Any) -> WorkerReply:
        if "describe" in request:
            return WorkerReply(value={"fields": ["response"], "takes_one": True})
        [fields] = request["answers"]
        self.asked.append(fields["response"])
        match fields["response"]:
            case "hang":
                return WorkerReply(failure="timeout", message="no reply within 10 s")
            case "crash":
                return WorkerReply(failure="crash", message="its process ended with code 7")
            case "raise":
                return WorkerReply(value={"scores": [[None, "function: it raised ValueError", {}]]})
            case "waits":
                return WorkerReply(value={"scores": [[None, "timeout: the function took more than 9.5 s", {}]]})
            case _:
                return WorkerReply(value={"scores": [[1.0, None, {}]]})


@pytest.fixture
def scripted_pool(monkeypatch: pytest.MonkeyPatch) -> ScriptedPool:
    pool = ScriptedPool()
    monkeypatch.setattr("sightline.rewards.function.WorkerPool", lambda *_, **__: pool)
    return pool


@pytest.mark.parametrize(
    ("texts", "processes", "num_tried"),
    [
        (["hang"] * 30, 1, 8),
        (["hang"] * 30, 4, 16),
        (["crash", "hang"] * 15, 1, 8),
        (["waits"] * 30, 1, 8),
        (["hang"] * 7 + ["fine"] + ["hang"] * 20, 1, 16),
        (["raise", "hang"] * 15, 1, 16),
        (["fine"] * 20 + ["hang"] * 20, 1, 28),
        (["hang"] * 8, 1, 8),
        (["raise"] * 30, 1, 30),
        ((["hang"] * 7 + ["fine"]) * 4, 1, 32),
        ([], 1, 0),
    ],
)
def test_after_eight_calls_in_a_row_that_end_badly_the_rest_is_not_tried(
    texts: Sequence[str], processes: int, num_tried: int, scripted_pool: ScriptedPool
) -> None:
    scores = _scores("half_if_right", texts, processes=processes)
    assert scripted_pool.asked == texts[:num_tried]
    assert len(scores) == len(texts)
    untried = [str(score.reason).endswith("the others were not tried") for score in scores]
    assert untried == [False] * num_tried + [True] * (len(texts) - num_tried)


def test_answers_that_were_not_tried_say_why_and_a_warning_counts_them(
    scripted_pool: ScriptedPool, caplog: pytest.LogCaptureFixture
) -> None:
    scores = _scores("half_if_right", ["hang"] * 20, timeout_seconds=10)
    assert scores[7].reason == "timeout: the function took more than 10 s"
    assert scores[8].reason == "timeout: 8 calls in a row timed out or crashed; the others were not tried"
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith("8 calls in a row timed out or crashed; 12 answers are unscored untried")


def test_the_answers_of_the_next_step_are_tried_again(scripted_pool: ScriptedPool) -> None:
    with _source("half_if_right") as source:
        source.scores([_answer("hang")] * 20)
        assert [score.value for score in source.scores([_answer("fine")] * 20)] == [1.0] * 20


def test_one_problem_that_hangs_the_function_does_not_cost_the_others(scripted_pool: ScriptedPool) -> None:
    hung, fine = _answer("hang"), _answer("fine")
    prompt = replace(hung.rollout.prompt, problem=replace(hung.rollout.prompt.problem, id="p2"))
    hung = replace(hung, rollout=replace(hung.rollout, prompt=prompt))
    with _source("half_if_right") as source:
        scores = source.scores([hung] * 16 + [fine] * 16)
    assert [score.value for score in scores] == [None] * 16 + [1.0] * 16
    assert len(scripted_pool.asked) == 32


def test_a_function_that_always_crashes_is_soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.rewards.function._MAX_FAILED_CALLS", 0)  # so that 4 for its process count
    scores = _scores("misbehaves", ["crash"] * 6)
    assert [str(score.reason) for score in scores] == [
        *["crash: its process ended with code 7"] * 4,
        *["crash: 4 calls in a row timed out or crashed; the others were not tried"] * 2,
    ]


def test_loading_that_takes_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sightline.rewards.function._PATIENCE_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    file = tmp_path / "mine.py"
    file.write_text("import time\ntime.sleep(0.3)\ndef score(response):\n    return 1\n", encoding="utf-8")
    source = Function(name="function", weight=1.0, function=f"{file}:score").source(
        RewardContext(max_response_tokens=None)
    )
    source.check()
    source.close()
    assert f"'{file}:score' is not loaded after 0.01 s; it is waited for up to 120 s" in caplog.text


def test_an_asynchronous_call_that_waits_for_ever_costs_only_its_own_answer() -> None:
    first, hung, last = _scores("one_waits_for_ever", ["a", "hang", "b"], timeout_seconds=_SHORT_SECONDS)
    assert [first.value, last.value] == [1.0, 1.0]
    assert hung == Score(value=None, reason="timeout: the function took more than 0.9 s")


def test_asynchronous_calls_that_raise_cost_only_their_own_answers() -> None:
    cancelled, failed, fine = _scores("one_of_many_raises", ["cancel", "raise", "a"])
    assert cancelled.reason == "function: it raised CancelledError"
    assert failed.reason == "function: it raised OSError: no such server"
    assert fine.value == 1.0


def test_a_column_that_no_row_has_leaves_the_answers_unscored() -> None:
    with _source("trl_columns") as source:
        answer = _answer("a")
        prompt = replace(answer.rollout.prompt, problem=replace(answer.rollout.prompt.problem, metadata={}))
        [score] = source.scores([replace(answer, rollout=replace(answer.rollout, prompt=prompt))])
    assert score.reason == "function: no row has a column 'difficulty', which the function takes"


def test_no_answers_give_no_scores() -> None:
    assert _scores("half_if_right", []) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixed", {}, r"parameters of one answer \(response\) and of many \(golds\); for one, write gold "),
        ("misspelt", {}, "parameter 'golld' is not known; did you mean 'gold'"),
        ("takes_nothing", {}, "none of the parameters that it could get; give it some of response, prompt"),
        ("positional", {}, "parameter 'response' stands before a `/`"),
        ("trl_with_trainer", {}, "'trainer_state' belongs to TRL's trainer"),
        ("own_default", {}, "'tolerance' is not known; take of .*; give values for parameters .* in `arguments`"),
        ("half_if_right", {"arguments": {"factor": 2}}, "arguments has 'factor', which the function does not take"),
        ("half_if_right", {"arguments": {"gold": 2}}, "arguments has 'gold', which Sightline gives itself"),
        ("half_if_right", {"completions": "messages"}, "completions is 'messages', but"),
        ("half_if_rigth", {}, "has no function 'half_if_rigth'; did you mean 'half_if_right'"),
        ("not_a_function", {}, "'not_a_function' of .* is of type int, no function"),
    ],
)
def test_a_function_that_can_not_be_called_is_refused_in_one_line(
    name: str, options: dict[str, object], message: str
) -> None:
    assert re.search(message, _refusal(f"{_FILE}:{name}", options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module\n", "importing .* failed: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (:\n", "importing .* failed: SyntaxError: "),
        ("raise SystemExit(3)\n", "importing .* failed: SystemExit: 3"),
        ("def other(response): ...\n", "has no function 'score'; it has other"),
    ],
)
def test_a_file_that_can_not_be_loaded_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content, encoding="utf-8")
    assert re.search(message, _refusal(f"{file}:score", {}))


def _refusal(function: str, options: dict[str, object]) -> str:
    """What a worker that can't use the function answers."""
    settings = {"function": function, "base_folder": str(_FILE.parent), "timeout_seconds": 1.0, **options}
    reply = handler(settings)({"describe": True})
    assert isinstance(reply, dict)
    assert "\n" not in reply["refused"]
    return reply["refused"]


def test_what_a_worker_refuses_is_the_users_error_before_the_run() -> None:
    with (
        _source("misspelt") as source,
        pytest.raises(ConfigError, match=r"reward component 'function', function '.*:misspelt': parameter 'golld' is"),
    ):
        source.check()


def test_a_function_that_takes_pictures_is_refused_where_there_are_none() -> None:
    with _source("picture_sizes") as source, pytest.raises(ConfigError, match="takes pictures, which can't be read"):
        source.check()


def test_a_file_that_ends_its_process_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os\nos._exit(3)\n", encoding="utf-8")
    source = Function(name="function", weight=1.0, function=f"{tmp_path}/mine.py:score").source(
        RewardContext(max_response_tokens=None)
    )
    with pytest.raises(ConfigError, match=r"function '.*mine\.py:score': .* ended with code 3 while it started"):
        source.check()
    source.close()


def test_a_file_that_is_missing_is_refused_with_where_it_was_looked_for() -> None:
    assert _refusal("no/mine.py:score", {}) == (
        f"there is no file {_FILE.parent}/no/mine.py; a path begins where the command is started"
    )


@pytest.mark.parametrize("function", ["score", "mine.py", "mine.py:", ":score", "./mine:score", "mine:sc ore"])
def test_a_reference_of_another_form_is_refused(function: str) -> None:
    with pytest.raises(ValidationError, match=r"write module:function or path/file\.py:function"):
        Function(name="function", weight=1.0, function=function)
