"""README, CONTRIBUTING and docs/ say what the code does: links, commands, recipes, and the reference of keys."""

import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.cli import _parse
from sightline.config import SftRecipe, TrainRecipe
from sightline.recipe import resolve_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCES = {"recipes.md", "algorithms.md"}  # looked up in, not read through
COMMANDS = {
    "train",
    "sft",
    "evaluate",
    "chat",
    "serve",
    "report",
    "data",
    "grade",
    "reward",
    "task",
    "tiny-model",
    "quickstart",
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_INLINE_COMMAND = re.compile(r"`sightline ([a-z][a-z-]*)[^`]*`")


def _blocks(page: Path, language: str) -> Iterator[str]:
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[1] == language:
            yield match[2]


def _shell_commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a shell block that calls sightline."""
    return [
        (page.name, line)
        for page in PAGES
        for block in _blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.removeprefix(".venv/bin/").startswith("sightline ")
    ]


def _recipes() -> list[tuple[str, Mapping[str, Any]]]:
    """(page, content) of every YAML block that is a whole recipe."""
    contents = [(page.name, yaml.safe_load(block)) for page in PAGES for block in _blocks(page, "yaml")]
    return [(name, content) for name, content in contents if "model" in content and "output_dir" in content]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    broken: list[str] = []
    for target in targets:
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        anchors = map(_anchor, _HEADING.findall(path.read_text(encoding="utf-8"))) if path.is_file() and anchor else []
        if not path.exists() or (anchor and anchor not in anchors):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(("page", "command"), _shell_commands(), ids=lambda value: value)
def test_every_command_in_the_docs_is_understood_by_the_parser(page: str, command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    _parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_in_a_sentence_exists(page: Path) -> None:
    assert set(_INLINE_COMMAND.findall(page.read_text(encoding="utf-8"))) <= COMMANDS


def test_the_readme_names_every_command() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"sightline {name}" not in readme} == set()


@pytest.mark.parametrize(("page", "content"), _recipes(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_recipe_in_the_docs_is_accepted(page: str, content: Mapping[str, Any]) -> None:
    recipe_class = SftRecipe if "batch_size" in content else TrainRecipe
    resolve_recipe(content, recipe_class, source=page)


def test_the_recipe_page_is_what_its_script_writes() -> None:
    script = ROOT / "docs" / "make_recipe_reference.py"
    specification = importlib.util.spec_from_file_location("make_recipe_reference", script)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `make docs`"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in REFERENCES], ids=lambda page: page.name)
def test_every_page_is_short_enough_to_be_read(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 160


def test_the_readme_fits_one_screen() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 80
