import pytest

from sightline.data.content import other_columns, picture_of, pictures_of, shown, type_name, without_pictures
from sightline.data.rows import Picture, RowError, Turn

ONE, TWO = (Picture(f"{name}.png") for name in ("one", "two"))
PNG = b"\x89PNG"


@pytest.mark.parametrize(
    ("columns", "pictures"),
    [
        ({}, ()),
        ({"image": None, "images": []}, ()),
        ({"image": "one.png"}, (ONE,)),
        ({"image": ["one.png", "two.png"], "images": None}, (ONE, TWO)),
        ({"images": ["one.png", b"bytes"]}, (ONE, Picture(b"bytes"))),
        ({"image": {"bytes": b"b", "path": None}, "images": []}, (Picture({"bytes": b"b", "path": None}),)),
        ({"image_path": "one.png"}, (ONE,)),
        ({"image_path": ["one.png", "two.png"]}, (ONE, TWO)),
        ({"image": "one.png", "image_path": "two.png"}, (ONE,)),
    ],
)
def test_pictures_are_in_one_column(columns: dict[str, object], pictures: tuple[Picture, ...]) -> None:
    assert pictures_of(columns) == pictures


def test_metadata_is_what_was_not_read() -> None:
    columns = {"id": 1, "image": "a", "image_path": "b", "problem": "c", "level": 0, "note": None}
    assert other_columns(columns, (), {"problem", None}) == {"image_path": "b", "level": 0}
    assert other_columns({"image_path": "b"}, (), ()) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_url", "http://a.b/c.png"),
        ("image1", "a.png"),
        ("image_1", {"bytes": PNG, "path": "1.png"}),
        ("img", "a.png"),
        ("image_file", "a.png"),
        ("Pictures", ["a.png"]),
        ("scan", PNG),
        ("scan", {"bytes": None, "path": "1.png"}),
        ("scans", [{"bytes": PNG, "path": None}]),
    ],
)
def test_a_picture_in_a_column_that_is_not_read_is_told(name: str, value: object) -> None:
    remedy = f"{name} looks like a picture; map it with data.columns={{image: {name}}}"
    with pytest.raises(RowError) as caught:
        other_columns({"problem": "What?", name: value}, (Turn(role="user", content=("What?",)),), {"problem"})
    assert (caught.value.kind, caught.value.reason) == ("wrong_type", remedy)


@pytest.mark.parametrize(
    ("name", "value"), [("image_url", ""), ("image_id", "7"), ("image_1", 3), ("img", []), ("picture_of", "a cat")]
)
def test_what_is_no_picture_is_metadata(name: str, value: object) -> None:
    assert other_columns({name: value}, (), ()) == {name: value}


def test_no_picture_goes_to_metadata_beside_one_that_is_shown() -> None:
    shown_picture = (Turn(role="user", content=(ONE, "What?")),)
    others = other_columns({"scan": {"bytes": PNG, "path": "a.png"}, "thumbnail": PNG, "level": 1}, shown_picture, ())
    assert others == {"scan": {"bytes": "<image>", "path": "a.png"}, "thumbnail": "<image>", "level": 1}


def test_pictures_deep_in_a_value_are_marked() -> None:
    base64 = "A" * 5000
    value = {"parts": [{"image_url": {"url": "data:image/png;base64,AA"}}, {"image": base64}, {"text": base64}], "n": 1}
    marked = [{"image_url": {"url": "<image>"}}, {"image": "<image>"}, {"text": base64}]
    assert without_pictures(value) == {"parts": marked, "n": 1}


@pytest.mark.parametrize(
    ("reference", "inner"),
    [
        ({"image": "x.png"}, "x.png"),
        ({"image": {"bytes": None, "path": None}, "image_url": {"url": "x.png"}}, "x.png"),
        ({"bytes": None, "path": None, "url": "x.png"}, "x.png"),
        ({"path": "x.png", "url": None}, {"path": "x.png", "url": None}),
        ({"image": {"bytes": PNG, "path": None}}, {"bytes": PNG, "path": None}),
        ({"bytes": None, "path": None}, {"bytes": None, "path": None}),
    ],
)
def test_a_reference_may_stand_inside_an_object(reference: object, inner: object) -> None:
    assert picture_of(reference) == Picture(inner)


def test_values_are_named_and_shown_in_one_short_line() -> None:
    assert [type_name(value) for value in (None, True, 3, b"", [], {})] == [
        "null",
        "true or false",
        "a number",
        "bytes",
        "a list",
        "an object",
    ]
    assert shown("a\nb") == '"a\\nb"'
    assert shown({"a": b"b"}) == '{"a": "b\'b\'"}'
    assert len(shown("a" * 1000)) == 80
