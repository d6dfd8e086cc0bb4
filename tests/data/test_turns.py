import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.turns import (
    literal_turns_of,
    place_pictures,
    question_turns,
    turns_of,
    unread_messages,
    with_system,
    without_reply,
)

ONE, TWO, THREE = (Picture(f"{name}.png") for name in ("one", "two", "three"))


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": list(content)}


def text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value}


def content_of(*content: object, pictures: tuple[Picture, ...] = ()) -> tuple[str | Picture, ...]:
    (turn,) = turns_of([user(*content)], pictures)
    return turn.content


def test_tags_tell_where_pictures_stand() -> None:
    assert place_pictures("A <image> and <image><image> B", [ONE, TWO, THREE]) == ("A ", ONE, " and ", TWO, THREE, " B")
    assert place_pictures("<image>", [ONE]) == (ONE,)


def test_without_tags_pictures_come_first() -> None:
    assert place_pictures("How many?", [THREE, ONE]) == (THREE, ONE, "How many?")
    assert place_pictures("How many?", []) == ("How many?",)


@pytest.mark.parametrize(("question", "pictures"), [("<image>?", []), ("<image>?", [ONE, TWO])])
def test_tags_and_pictures_must_be_equally_many(question: str, pictures: list[Picture]) -> None:
    with pytest.raises(RowError, match=f"question has 1 <image> but the row has {len(pictures)} images") as caught:
        place_pictures(question, pictures, name="question")
    assert caught.value.kind == "wrong_image_tags"


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        ({"type": "image", "image": "a.png"}, "a.png"),
        ({"type": "image", "image": b"bytes"}, b"bytes"),
        ({"type": "image", "image": {"bytes": b"b", "path": None}}, {"bytes": b"b", "path": None}),
        ({"type": "image", "path": "a.png"}, "a.png"),
        ({"type": "image", "url": "file:///a.png"}, "file:///a.png"),
        ({"type": "image", "bytes": b"b", "path": "a.png", "image": None}, b"b"),
        ({"type": "image_url", "image_url": {"url": "data:,"}}, "data:,"),
        ({"type": "image_url", "image_url": "data:,"}, "data:,"),
        ({"type": "input_image", "image_url": "data:,", "text": None}, "data:,"),
        ({"image": "a.png"}, "a.png"),
        ({"type": "image", "image": {"path": "x.png", "url": None}}, {"path": "x.png", "url": None}),
        ({"type": "image_url", "image": {"bytes": None, "path": None}, "image_url": {"url": "x.png"}}, "x.png"),
    ],
)
def test_a_part_may_bring_its_own_picture(part: dict[str, object], reference: object) -> None:
    assert content_of(part, text("?")) == (Picture(reference), "?")


def test_parts_without_a_reference_take_the_next_picture() -> None:
    parts = (text("A"), {"type": "image"}, {"type": "image", "image": None, "text": None}, text("B"))
    assert content_of(*parts, pictures=(ONE, TWO)) == ("A", ONE, TWO, "B")


def test_pictures_go_on_from_turn_to_turn() -> None:
    messages = [user({"type": "image"}, text("a")), {"role": "assistant", "content": "b"}, user(text("c <image>"))]
    turns = turns_of(messages, [ONE, TWO])
    assert [turn.content for turn in turns] == [(ONE, "a"), ("b",), ("c ", TWO)]


def test_pictures_that_nothing_marks_open_the_first_user_turn() -> None:
    messages = [{"role": "system", "content": "s"}, user(text("a")), user(text("b"))]
    assert [turn.content for turn in turns_of(messages, [ONE, TWO])] == [("s",), (ONE, TWO, "a"), ("b",)]


def test_neighbouring_texts_become_one_and_empty_ones_go() -> None:
    assert content_of(text("a"), text(""), "b", {"type": "input_text", "text": "c"}) == ("abc",)


def test_a_literal_tag_in_a_part_is_text_only_where_it_is_asked_for() -> None:
    messages = [user({"type": "image"}, text("an <image> tag"))]
    assert literal_turns_of(messages, [ONE])[0].content == (ONE, "an <image> tag")
    with pytest.raises(RowError, match="messages has 2 <image> but the row has 1 images"):
        turns_of(messages, [ONE])


@pytest.mark.parametrize(
    ("role", "ours"),
    [("human", "user"), ("User", "user"), ("gpt", "assistant"), ("developer", "system"), ("system", "system")],
)
def test_the_roles_of_others_become_ours(role: str, ours: str) -> None:
    assert turns_of([{"from": role, "value": "a"}], ())[0] == Turn(role=ours, content=("a",))


def test_an_index_must_name_the_picture_that_is_next() -> None:
    indexed = [{"type": "image", "index": 0, "text": None}, {"type": "image", "index": 1}]
    assert content_of({"type": "text", "text": "a", "index": None}, *indexed, pictures=(ONE, TWO)) == ("a", ONE, TWO)
    with pytest.raises(RowError, match="shows image 1 where image 0 is next"):
        content_of(*reversed(indexed), pictures=(ONE, TWO))


@pytest.mark.parametrize(
    ("messages", "kind", "part"),
    [
        ("[{", "invalid_json", "messages is not the JSON list"),
        ({"role": "user"}, "wrong_type", "messages is an object"),
        ([3], "wrong_type", "messages[0] is a number"),
        ([{"role": "tool", "content": "a"}], "wrong_type", 'messages[0] has the role "tool"; accepted are system'),
        ([{"content": "a"}], "wrong_type", "messages[0] has the role null"),
        ([{"role": "user", "content": None}], "wrong_type", "messages[0] has null as its content"),
        ([{"role": "user", "content": {"a": 1}}], "wrong_type", "messages[0] has an object as its content"),
        ([user(3)], "wrong_type", "a part of messages[0] is a number"),
        ([user({"type": "video", "video": "a.mp4"})], "wrong_type", 'has a part of type "video"; accepted are text'),
        ([user({"type": "text", "text": 3})], "wrong_type", "a text of messages[0] is a number"),
        ([user({"type": "image", "image": 3})], "wrong_type", "an image is a number"),
        ([user(text("half \ud83d"))], "not_utf8", "messages[0] holds '\\ud83d', half a character"),
        ([user({"type": "image"})], "wrong_image_tags", "has 1 <image> but the row has 0 images"),
    ],
)
def test_wrong_messages_are_told(messages: object, kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        turns_of(messages, ())
    assert caught.value.kind == kind
    assert part in caught.value.reason
    assert "\n" not in caught.value.reason


def test_a_picture_beside_parts_that_bring_their_own_is_a_mismatch() -> None:
    with pytest.raises(RowError, match="has 0 <image> but the row has 1 images"):
        content_of({"type": "image", "image": "a.png"}, text("?"), pictures=(ONE,))


def test_pictures_need_a_user_turn() -> None:
    with pytest.raises(RowError, match="no user's message"):
        turns_of([{"role": "system", "content": "a"}], [ONE])


def test_a_reply_is_taken_off_the_end() -> None:
    asked, reply = Turn(role="user", content=("a",)), Turn(role="assistant", content=("b",))
    assert without_reply((asked, reply)) == ((asked,), "b")
    assert without_reply((asked, reply, asked)) == ((asked, reply, asked), None)


@pytest.mark.parametrize(
    ("message", "is_kept"),
    [
        (user(text("a"), {"type": "image_url", "image_url": {"url": "b"}}), False),
        ({**user(text("a")), "tool_calls": None}, False),
        ({**user(text("a")), "tool_calls": [1]}, True),
        (user({"type": "text", "text": "a", "cache": 1}), True),
        (user({"type": "image_url", "image_url": {"url": "b", "detail": "low"}}), False),
        (user({"type": "image_url", "image_url": {"url": "b", "cache": 1}}), True),
    ],
)
def test_messages_that_hold_more_than_content_are_kept_as_metadata(message: object, is_kept: bool) -> None:
    columns = {"messages": [message]}
    assert unread_messages(columns, "messages") == (columns if is_kept else {})


def test_messages_are_kept_without_their_pictures() -> None:
    def message(url: str) -> dict[str, object]:
        return {**user({"type": "image_url", "image_url": {"url": url}}), "tool_calls": [1]}

    kept = unread_messages({"messages": [message("data:image/png;base64,iVBORw0KGgo=")]}, "messages")
    assert kept == {"messages": [message("<image>")]}


def test_choices_are_shown_below_their_question() -> None:
    columns = {"problem": "Which is a mammal?", "image": "one.png"}
    content = (ONE, "Which is a mammal?\nA. cat\nB. ant")
    assert question_turns(columns, "problem", ("cat", "ant"))[0].content == content


def test_pictures_may_be_the_choices() -> None:
    columns = {"problem": "Which is red?", "images": ["one.png", "two.png"]}
    content = ("Which is red?\nA. ", ONE, "\nB. ", TWO)
    assert question_turns(columns, "problem", ("<image>", "<image>"))[0].content == content


def test_the_rows_own_system_text_opens_turns_that_have_none() -> None:
    asked, own = Turn(role="user", content=("a",)), Turn(role="system", content=("Be brief.",))
    assert with_system((asked,), {"system": "Be kind."}) == (Turn(role="system", content=("Be kind.",)), asked)
    assert with_system((own, asked), {"system": "Be kind."}) == (own, asked)
    assert with_system((asked,), {"system": ""}) == (asked,)
