from dataclasses import replace

from sightline.records import rollout_rows
from sightline.types import ImageRef, Prompt, ScoredRollout
from tests.rewards.examples import rollout

FIRST = ImageRef(digest="one", width=640, height=480, place="here")
SECOND = ImageRef(digest="two", width=500, height=375, place="here")


def row_of(kind: str, **metadata: object) -> dict[str, object]:
    plain = rollout("[1, 2, 3, 4]", answer="[1, 2, 3, 4]")
    prompt = Prompt(
        problem=replace(plain.prompt.problem, answer_kind=kind, metadata=metadata),
        token_ids=(1, 2),
        images=(FIRST, SECOND),
        box_space="model_input",
        model_sizes=((644, 476), (504, 364)),
    )
    scored = ScoredRollout(
        rollout=replace(plain, prompt=prompt), rewards={}, reward=1.0, extracted_answer=None, is_correct=True
    )
    [row] = rollout_rows(1, [[scored]], is_learned_from=[True])
    return row


def test_a_row_with_boxes_tells_the_sizes_of_the_picture_that_they_are_in() -> None:
    frames = [row_of("box"), row_of("boxes", box_image=1)]
    assert [(row["image_size"], row["model_input_size"], row["box_space"]) for row in frames] == [
        ([640, 480], [644, 476], "model_input"),
        ([500, 375], [504, 364], "model_input"),
    ]


def test_a_row_of_another_kind_tells_no_sizes() -> None:
    assert row_of("number").keys().isdisjoint({"image_size", "model_input_size", "box_space"})
