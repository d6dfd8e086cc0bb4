"""`sightline grade` and `sightline reward serve`: the grader and the rewards, without training."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sightline.types import AnswerKind, BoxSpace

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

_KINDS = ("auto", *(kind for kind in get_args(AnswerKind) if kind != "none"))


def add_reward_commands(commands: "Commands") -> None:
    """Add `grade` and `reward` to the command line."""
    _add_grade(commands)
    reward = commands.add_parser("reward", help="offer rewards to other programs")
    _add_serve(reward.add_subparsers(title="commands", metavar="COMMAND", required=True))


def _add_grade(commands: "Commands") -> None:
    about = "grade a log of answers, or grade it again"
    command = commands.add_parser("grade", help=about, description=f"{about.capitalize()}.")
    command.add_argument("log", type=Path, metavar="FILE.jsonl|FILE.json")
    command.add_argument("--gold", metavar="COL", help="column of golds; dots lead inside (default: by its name)")
    command.add_argument("--response", metavar="COL", help="column of responses (default: by its name)")
    command.add_argument("--choices", metavar="COL", help="column of options (default: by its name)")
    command.add_argument("--kind", choices=_KINDS, default="auto", help="of all golds (default: told from each)")
    command.add_argument(
        "--answer-from",
        default="tag",
        metavar="PLACES",
        help="in order of preference: tag, boxed, stated, whole; commas between (default tag)",
    )
    command.add_argument(
        "--tolerance", type=float, default=0.0, metavar="T", help="numbers this close, relative to gold, are right"
    )
    command.add_argument("--iou-threshold", type=float, default=0.5, metavar="T", help="of a right box (default 0.5)")
    command.add_argument("--box-space", choices=get_args(BoxSpace), help="of all boxes (default: as each row says)")
    command.add_argument("--compat", choices=["r1v"], help="grade as this predecessor does, to reproduce its figures")
    command.add_argument("--json", action="store_true", help="one JSON object a row on standard output")
    command.set_defaults(run=_grade)


def _add_serve(commands: "Commands") -> None:
    about = "serve rewards over HTTP in the format of OpenRLHF and LMM-R1"
    command = commands.add_parser("serve", help=about, description=f"{about[0].upper()}{about[1:]}.")
    command.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="whose reward section is used")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as reward.grading.iou_threshold=0.7")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    command.add_argument("--port", type=int, default=5000, help="default 5000")
    command.add_argument(
        "--token-variable", metavar="NAME", help="environment variable with the token (default: one is made and shown)"
    )
    command.set_defaults(run=_serve)


def _grade(options: argparse.Namespace) -> None:
    from sightline.grading.options import GradingConfig
    from sightline.recipe import resolve_recipe
    from sightline.regrade.log import grade_file
    from sightline.regrade.options import LogOptions
    from sightline.regrade.table import rows_as_json, table

    content = {
        "answer_from": [place.strip() for place in options.answer_from.split(",")],
        "relative_tolerance": options.tolerance,
        "iou_threshold": options.iou_threshold,
        "box_space": options.box_space,
    }
    graded = grade_file(
        options.log,
        LogOptions(
            gold=options.gold,
            response=options.response,
            choices=options.choices,
            kind=None if options.kind == "auto" else options.kind,
            compat=options.compat,
            grading=resolve_recipe(content, GradingConfig, source="sightline grade"),
        ),
    )
    if options.json:
        for row in rows_as_json(graded):
            print(row)
    print(table(graded), file=sys.stderr if options.json else sys.stdout)


def _serve(options: argparse.Namespace) -> None:
    from sightline.reward_server import serve

    recipe, overrides = options.recipe, options.overrides
    if recipe is not None and "=" in recipe and not Path(recipe).exists():  # without a recipe the first one is a key
        recipe, overrides = None, [recipe, *overrides]
    serve(
        None if recipe is None else Path(recipe),
        overrides,
        host=options.host,
        port=options.port,
        token_variable=options.token_variable,
    )
