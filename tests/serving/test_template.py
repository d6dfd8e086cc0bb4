"""The served chat template writes, from what a client sends, the very prompt of training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sightline.data import DataConfig, load_problems
from sightline.data.config import SourceConfig
from sightline.data.problems import asked
from sightline.models.config import ModelConfig
from sightline.prompts import Inputs, load_inputs
from sightline.serving.template import chat_template_of, served_template
from sightline.types import Message, Problem
from tests.fakes import noise_png

TEMPLATES = [
    "{problem}",
    "{problem} Think first.",
    "Look: {problem}",
    "Say {{ messages }} {% if x %}'it'{% endif %} {# no #}\n\"{problem}\"\n\\n %} }} \\x41 {'a': 1}\r\n\tBEFORE AFTER",
    "\n {problem} \n",
    "Wie viele? ≥ 🐈 {problem} \u2028",
]
SYSTEM_PROMPTS = [None, "", "Be brief.", "{{ 7 * 7 }} {% raw %} 'a' \"b\"\nSYSTEM 🐈"]
ROWS: list[dict[str, Any]] = [
    {"problem": "How many cats?"},
    {"problem": "How many cats?", "image": "0.png"},
    {"problem": "Is <image> like <image> ?", "images": ["0.png", "1.png"]},
    {"problem": "{{ 1 }} {% endfor %} <|x|>", "images": ["0.png", "1.png"]},
]


@pytest.fixture(params=["qwen2_5_vl", "smolvlm"])
def inputs(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Inputs:
    return load_inputs(ModelConfig(path=str(tiny_folders[request.param])))


def _problems(inputs: Inputs, folder: Path, rows: Sequence[dict[str, Any]], **data: Any) -> Sequence[Problem]:
    """The problems of rows, as a recipe's data section reads them."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(noise_png(56, 84, seed=number))
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"answer": "1"} | row) + "\n" for row in rows), encoding="utf-8")
    return load_problems(DataConfig.model_validate({"path": str(file), **data}), inputs.images).problems


def _sent(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation as vLLM hands a client's to the template, by --chat-template-content-format openai."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.content
            ],
        }
        for message in messages
    ]


def _rendered(inputs: Inputs, template: str, messages: Sequence[dict[str, Any]]) -> str:
    """What vLLM renders: the tokenizer's own rendering, with the template of its command line."""
    text = inputs.family.tokenizer.apply_chat_template(
        list(messages), chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("system_prompt", SYSTEM_PROMPTS)
@pytest.mark.parametrize("prompt_template", TEMPLATES)
def test_a_bare_question_is_put_as_training_put_it(
    inputs: Inputs, prompt_template: str, system_prompt: str | None, tmp_path: Path
) -> None:
    bare = _problems(inputs, tmp_path, ROWS)
    trained = _problems(inputs, tmp_path, ROWS, prompt_template=prompt_template, system_prompt=system_prompt)
    asking = SourceConfig(prompt_template=prompt_template, system_prompt=system_prompt)
    template = served_template(chat_template_of(inputs.family), asking)
    rendered = [_rendered(inputs, template, _sent(problem.messages)) for problem in bare]
    assert rendered == [inputs.family.encode_prompt(problem).text for problem in trained]


def test_of_a_conversation_the_last_question_is_wrapped_as_training_wraps_it(inputs: Inputs, tmp_path: Path) -> None:
    turns = [("user", "<image> One?"), ("assistant", "Yes."), ("user", "Two?")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "image": "0.png"}
    way = {"prompt_template": "Q: {problem} Think.", "system_prompt": "Be brief."}
    (bare,) = _problems(inputs, tmp_path, [row])
    (trained,) = _problems(inputs, tmp_path, [row], **way)
    template = served_template(chat_template_of(inputs.family), SourceConfig.model_validate(way))
    rendered = _rendered(inputs, template, _sent(bare.messages))
    assert rendered == inputs.family.encode_prompt(trained).text
    assert rendered.count("Think.") == 1


def test_a_clients_own_system_message_is_kept_in_place_of_the_recipes(inputs: Inputs) -> None:
    template = served_template(chat_template_of(inputs.family), SourceConfig(system_prompt="Be brief."))
    messages = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Two?"}]
    rendered = _rendered(inputs, template, messages)
    assert "Be long." in rendered
    assert "Be brief." not in rendered


def test_a_question_that_is_a_plain_text_is_wrapped_too(inputs: Inputs) -> None:
    template = served_template(chat_template_of(inputs.family), SourceConfig(prompt_template="Q: {problem} Think."))
    plain = _rendered(inputs, template, [{"role": "user", "content": "Two?"}])
    in_parts = _rendered(inputs, template, [{"role": "user", "content": [{"type": "text", "text": "Two?"}]}])
    assert plain == in_parts
    assert "Q: Two? Think." in plain


def test_the_start_of_an_answer_that_a_client_gives_stays_last(inputs: Inputs) -> None:
    template = served_template(chat_template_of(inputs.family), SourceConfig(prompt_template="{problem} Think."))
    messages = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "It is"}]
    rendered = _rendered(inputs, template, messages)
    assert rendered.index("Two? Think.") < rendered.index("It is")


@pytest.mark.parametrize("opening", ["", "\n", "\n\n  ", "  \t", "start ", "{{- 'x' }}", "\n{#- y -#}\n z"])
def test_the_checkpoints_own_template_goes_on_word_for_word(opening: str, inputs: Inputs) -> None:
    own = opening + "{% for message in messages %}\n{{ message.role }}={{ message.content[0].text }};{% endfor %}\n"
    asking = SourceConfig(prompt_template="Q {problem}")
    problem = Problem(id="a", messages=(Message(role="user", content=("Two?",)),), answers=("2",))
    expected = _rendered(inputs, own, _sent(asked(problem, asking).messages))
    assert _rendered(inputs, served_template(own, asking), _sent(problem.messages)) == expected


def test_without_a_way_of_asking_the_template_is_the_checkpoints_own(inputs: Inputs) -> None:
    assert served_template("{{ messages }}", SourceConfig(system_prompt="")) == "{{ messages }}"
