"""The report holds what the run directory holds, escaped, in one file of bounded size."""

import json
import random
import re
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sightline.errors import RunError
from sightline.report import write_report
from sightline.run_directory import RunDirectory
from tests.report.made_up_run import evaluation, make_run, rollout, step_metrics


class Page(HTMLParser):
    """The tags, and the visible text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in {"style", "script"}:
            self.parts.append(data)

    @property
    def text(self) -> str:
        """The text as it is."""
        return "".join(self.parts)

    @property
    def words(self) -> str:
        """The text with one space at each tag and for each run of white space, no-break spaces too."""
        return " ".join(" ".join(self.parts).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = make_run(tmp_path_factory.mktemp("runs") / "dots", num_steps=80)
    return Page(write_report(path).read_text(encoding="utf-8"))


def report_of(path: Path) -> Page:
    return Page(write_report(path).read_text(encoding="utf-8"))


def empty_run(path: Path, recipe: Mapping[str, object] | None = None) -> RunDirectory:
    return RunDirectory.open(path, recipe=recipe or {"model": {"path": "tiny"}}, command="x")


def test_the_header_names_model_algorithm_steps_and_time(page: Page) -> None:
    assert "Model Qwen/Qwen2.5-VL-3B-Instruct Algorithm grpo Steps 80 Time in steps 4 min 56 s" in page.words


def test_the_table_compares_before_and_after_with_intervals(page: Page) -> None:
    assert "Before (step 0) After (step 80) Change" in page.words
    assert "Accuracy 31.0 % 25.0 to 37.0 91.0 % 85.0 to 97.0 +60.0 points" in page.words
    assert "Mean length, tokens 87.9 141.9 +54.0" in page.words
    assert "Blank picture Accuracy 20.0 % 15.0 to 25.0 20.0 % 15.0 to 25.0 ±0.0 points intervals overlap" in page.words


def test_evaluations_are_in_order_of_steps(page: Page) -> None:
    rows = re.search(r"All 3 evaluations.*?Before 0 256.*?Step 50 50 256.*?After 80 256", page.words)
    assert rows is not None


def test_every_plot_is_drawn_inline(page: Page) -> None:
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert titles == [
        "Reward",
        "Accuracy",
        "Response length",
        "Shares",
        "KL to the reference",
        "Entropy",
        "Gradient norm",
        "Loss",
        "Unscored and judged",
        "Engine against learner",
        "Time per step",
    ]
    assert sum(tag == "svg" for tag, _ in page.tags) == len(titles)


def test_plots_take_every_colour_from_the_style_sheet(page: Page) -> None:
    styles = " ".join(attributes.get("style") or "" for tag, attributes in page.tags if tag in {"path", "text", "use"})
    assert set(re.findall(r"#[0-9a-f]{6}", styles)) == set()
    assert "var(--series-1)" in styles


def test_warnings_name_steps_and_remedies(page: Page) -> None:
    assert "Gradients not finite: 1 of 80 steps made no update (step 23)." in page.words
    assert "In 1 of 80 steps some answers could not be scored" in page.words
    assert "more than 20 % of answers were cut off at the token limit" in page.words
    assert "more than 80 % of groups had equal rewards" in page.words


def test_a_run_without_trouble_says_what_was_looked_for(tmp_path: Path) -> None:
    with empty_run(tmp_path) as run:
        run.append_metrics(1, {"reward/mean": 0.5, "response/truncated_fraction": 0.2})
    assert "None. Looked for skipped updates" in report_of(tmp_path).words


def test_answers_carry_verdict_in_words_and_signs(page: Page) -> None:
    verdicts = {attributes.get("data-verdict") for tag, attributes in page.tags if tag == "div"} - {None}
    assert verdicts >= {"correct", "wrong"}
    assert "✓ correct reward 1.1 accuracy +1, format +0.1 graded:" in page.words
    assert "✗ wrong reward 0 accuracy 0, format 0 no answer found 21 tokens · cut off" in page.words


def test_the_steps_shown_are_first_quarters_and_last(page: Page) -> None:
    steps = [attributes["data-step"] for tag, attributes in page.tags if "data-step" in attributes]
    assert steps == ["1", "20", "40", "60", "80"]


def test_pictures_are_embedded(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/webp;base64,") for source in sources)


def test_the_page_refers_to_nothing_outside(page: Page) -> None:
    references = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "action", "srcset"}
    ]
    assert all(value is not None and value.startswith(("data:", "#")) for value in references)
    assert not any(tag == "link" for tag, _ in page.tags)


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">"\'&amp;$\\frac{'


def test_hostile_text_is_shown_and_never_becomes_markup(tmp_path: Path) -> None:
    recipe = {"model": {"path": HOSTILE}, "algorithm": {"name": HOSTILE}}
    with empty_run(tmp_path, recipe) as run:
        run.append_metrics(1, {f"reward/{HOSTILE}": 0.5, "reward/mean": 0.1, "loss/_x": 1.0, "loss/$y$": 2.0})
        hostile_row = {
            **rollout(1, 0, 0, skill=1.0, num_words=3, generator=random.Random(0)),
            **dict.fromkeys(("problem_id", "question", "answer", "unscored_reason", "extracted_answer"), HOSTILE),
            "text": f"<think>{HOSTILE}</think><answer>{HOSTILE}",
            "rewards": {HOSTILE: 1.0},
            "images": ["../../../etc/passwd", HOSTILE],
        }
        run.write_rollouts(1, [hostile_row])
        run.write_evaluation("odd", {HOSTILE: {"accuracy": 0.5, HOSTILE: 0.5}})
    page = report_of(tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert f"<think>{HOSTILE}</think><answer>{HOSTILE}" in page.text
    assert "2 pictures not shown" in page.words


def test_a_run_just_started_says_what_is_missing(tmp_path: Path) -> None:
    empty_run(tmp_path).close()
    words = report_of(tmp_path).words
    assert "Steps none yet" in words
    assert "No evaluation has been stored yet." in words
    assert "No step has been recorded yet." in words
    assert "There is nothing to draw until the first step is done." in words
    assert "No rollouts are stored in this run." in words


def test_a_run_of_one_step_and_one_evaluation_is_shown(tmp_path: Path) -> None:
    with empty_run(tmp_path) as run:
        run.append_metrics(1, {"reward/mean": 0.25, "time/rollout_seconds": 1.0})
        run.write_evaluation("before", evaluation("before", 0, 0.4))
    page = report_of(tmp_path)
    assert "One evaluation so far" in page.words
    assert "40.0 % 34.0 to 46.0" in page.words
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert titles == ["Reward", "Accuracy", "Time per step"]


def test_a_supervised_run_shows_its_loss_and_says_what_it_does_not_record(tmp_path: Path) -> None:
    with empty_run(tmp_path, {"model": "tiny"}) as run:
        for step in (1, 2, 3):
            run.append_metrics(step, {"loss/sft": 3.0 / step, "time/step_seconds": 0.4})
    page = report_of(tmp_path)
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert titles == ["Loss"]
    assert "Not recorded in this run: Reward (reward/mean);" in page.words
    assert "KL to the reference (kl/mean, loss/kl, kl/coefficient)" in page.words


def test_a_critic_and_its_clips_are_drawn_where_there_is_one_and_not_missed_elsewhere(tmp_path: Path) -> None:
    with empty_run(tmp_path / "with") as run:
        for step in (1, 2, 3):
            run.append_metrics(step, {"critic/loss": 1.0 / step, "policy/clip_fraction": 0.1})
    page = report_of(tmp_path / "with")
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert titles == ["Clipped and rejected", "Critic"]
    with empty_run(tmp_path / "without") as run:
        run.append_metrics(1, {"reward/mean": 0.5})
    assert "Critic" not in report_of(tmp_path / "without").words


def test_curves_of_nothing_but_null_are_missing_and_not_an_error(tmp_path: Path) -> None:
    with empty_run(tmp_path) as run:
        run.append_metrics(1, {"reward/mean": float("nan"), "parity/mean_abs_logprob_gap": 0.0})
    page = report_of(tmp_path)
    assert "Losses or mean rewards not finite: 1 of 1 step (step 1)." in page.words


def test_a_problem_drawn_twice_in_a_step_is_two_groups(tmp_path: Path) -> None:
    generator = random.Random(0)
    rows = [rollout(1, 0, index, skill=1.0, num_words=3, generator=generator) for index in (0, 1, 0, 1)]
    with empty_run(tmp_path) as run:
        run.write_rollouts(1, rows)
    assert "2 of 2 groups" in report_of(tmp_path).words


def test_an_unreadable_picture_is_left_out_and_said(tmp_path: Path) -> None:
    with empty_run(tmp_path) as run:
        run.write_rollouts(1, [rollout(1, 0, 0, skill=1.0, num_words=3, generator=random.Random(0))])
        (tmp_path / "images" / "picture0.png").write_bytes(b"no picture")
    assert "1 picture not shown" in report_of(tmp_path).words


def test_what_is_not_a_run_directory_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        write_report(tmp_path)


def test_a_long_run_of_long_answers_gives_a_small_page_in_seconds(tmp_path: Path) -> None:
    generator = random.Random(0)
    with empty_run(tmp_path) as run:
        lines = [step_metrics(step, 2000, generator) for step in range(1, 2001)]
        run.append_metrics(1, {})
        run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        rows = [
            rollout(1, problem, index, skill=0.5, num_words=4000, generator=generator)
            for problem in range(8)
            for index in range(16)
        ]
        for step in (1, 500, 1000, 1500, 2000):
            run.write_rollouts(step, rows)
    started = time.perf_counter()
    path = write_report(tmp_path)
    assert time.perf_counter() - started < 20
    assert path.stat().st_size < 8_000_000
