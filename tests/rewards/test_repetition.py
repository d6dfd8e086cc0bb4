import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sightline.grading.verdict import Verdict
from sightline.rewards.component import Answer, RewardContext
from sightline.rewards.repetition import Repetition, repeated_share
from tests.rewards.examples import rollout


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b a b a", 0.5),  # ab ba ab ba: 2 of 4 are new
        ("a a a a", 2 / 3),  # aa aa aa
        ("A a\na", 0.5),  # in any case
        ("a b c d", 0.0),
        ("a b", 0.0),
        ("a", 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_pairs_of_words_that_repeat_an_earlier_pair(text: str, share: float) -> None:
    assert repeated_share(text, ngram_words=2) == pytest.approx(share)


def test_each_chinese_character_is_a_word() -> None:
    assert repeated_share("数三数三数三", ngram_words=2) == pytest.approx(3 / 5)  # 5 pairs, 2 of them new
    assert repeated_share("数3数3数", ngram_words=2) == pytest.approx(0.5)


def test_one_word_n_grams_are_words() -> None:
    assert repeated_share("the cat and the dog", ngram_words=1) == pytest.approx(1 / 5)


@given(st.text(), st.integers(1, 8))
def test_the_share_is_from_0_to_less_than_1(text: str, ngram_words: int) -> None:
    assert 0.0 <= repeated_share(text, ngram_words=ngram_words) < 1.0


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_a_text_said_twice_repeats_at_least_as_large_a_share(words: list[str], ngram_words: int) -> None:
    once, twice = " ".join(words), " ".join(words + words)
    assert repeated_share(twice, ngram_words=ngram_words) >= repeated_share(once, ngram_words=ngram_words)


@pytest.mark.parametrize("unit", ["a ", "数", "a"])
def test_100_kb_are_read_in_under_a_second(unit: str) -> None:
    started = time.process_time()
    repeated_share(unit * (100_000 // len(unit)), ngram_words=6)
    assert time.process_time() - started < 1.0


def test_the_component_scores_the_response_by_its_own_length_of_n_grams() -> None:
    answer = Answer(rollout=rollout("a b a b a"), verdict=Verdict(outcome="wrong", answer=None))
    context = RewardContext(max_response_tokens=None)
    pairs = Repetition(name="repetition", weight=-1.0, ngram_words=2).source(context).scores([answer])
    sixes = Repetition(name="repetition", weight=-1.0).source(context).scores([answer])
    assert [score.value for score in (*pairs, *sixes)] == [0.5, 0.0]


@pytest.mark.parametrize("options", [{"weight": 0.1}, {"weight": -0.1, "ngram_words": 0}])
def test_a_reward_for_repetition_and_n_grams_of_no_words_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Repetition.model_validate({"name": "repetition", **options})
