"""The command line: `sightline COMMAND`. A user's mistake is one line on standard error and exit code 2."""

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.data_commands import add_data_commands
from sightline.errors import ConfigError, SightlineError
from sightline.reward_commands import add_reward_commands
from sightline.serving_commands import add_serving_commands

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

EPILOG = "`sightline COMMAND --help` tells more. Documentation: README.md and docs/."


class _LogHandler(logging.Handler):
    """Writes to whatever sys.stderr is at the time: while a live line is drawn, that keeps the two apart."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Terminated(BaseException):
    """SIGTERM came, as clusters send it before they take a machine away."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 on success, 2 for a user's mistake, 130 or 143 when told to end."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_LogHandler()])
    for library in ("httpx", "httpx2", "openai"):
        logging.getLogger(library).setLevel(logging.WARNING)  # else a line for every request
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else ten lines of retries before our one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few characters shows the others as \\u...
    run: Callable[[argparse.Namespace], None] = options.run
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        run(options)
        sys.stdout.flush()
    except SightlineError as error:
        print(f"sightline: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who read the output has gone; as a shell says it: 128 + SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed there at exit
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"sightline: {where}{error.strerror or error}; check the place and its permissions", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("sightline: interrupted; the same command goes on where it can", file=sys.stderr)
        sys.exit(130)
    except _Terminated:
        print("sightline: told to end; the same command goes on where it can", file=sys.stderr)
        sys.exit(143)  # as a shell says it: 128 + SIGTERM


def _raise_terminated(*_: object) -> None:
    """So that what is under way is left in order, as after an interruption."""
    raise _Terminated


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with key=value also after an option, where argparse by itself takes no more of them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [argument for argument in rest if argument.startswith("-") or "overrides" not in options]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sightline",
        description="Train vision-language models to reason, by reinforcement learning from verifiable rewards.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_recipe_command(commands, "train", _train, "reinforcement learning as a recipe says")
    _add_recipe_command(commands, "sft", _sft, "supervised fine-tuning on rows with solutions")
    _add_evaluate(commands)
    _add_report(commands)
    _add_task(commands)
    add_data_commands(commands)
    add_reward_commands(commands)
    add_serving_commands(commands)
    _add_tiny_model(commands)
    _add_quickstart(commands)
    return parser


def _add_recipe_command(commands: "Commands", name: str, run: Callable[[argparse.Namespace], None], about: str) -> None:
    command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as rollout.group_size=16")
    command.add_argument(
        "--dry-run", action="store_true", help="check recipe and data, show what the run needs, train nothing"
    )
    command.set_defaults(run=run)


def _add_evaluate(commands: "Commands") -> None:
    command = commands.add_parser("evaluate", help="accuracy on held-out problems")
    command.add_argument("model", metavar="CHECKPOINT", help="folder or hub name")
    command.add_argument("data", metavar="DATA.jsonl")
    command.add_argument("--samples", type=int, default=1, help="sampled answers per problem (default 1)")
    command.add_argument("--temperature", type=float, default=1.0, help="of the sampled answers (default 1)")
    command.add_argument("--max-response-tokens", type=int, default=1024)
    command.add_argument("--max-sequences", type=int, default=256, help="answers that grow at the same time")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of data, reward or vllm, data.answer_kind=count"
    )
    command.add_argument(
        "--recipe", type=Path, metavar="RECIPE.yaml", help="ask and grade as in this training (a run keeps recipe.yaml)"
    )
    command.add_argument(
        "--engine", choices=("auto", "transformers", "vllm"), help="what answers (default: as in the recipe, else auto)"
    )
    command.add_argument("--prompt-template", default=None, help="as in the recipe's data section")
    command.add_argument("--system-prompt", default=None, help="as in the recipe's data section")
    command.add_argument("--blank-images", action="store_true", help="grey images: what is guessed from text alone")
    command.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("evaluation.json"), help="where the figures go as well"
    )
    command.set_defaults(run=_evaluate)


def _add_report(commands: "Commands") -> None:
    command = commands.add_parser("report", help="draw report.html from a run directory")
    command.add_argument("run_folder", type=Path, metavar="RUN")
    command.set_defaults(run=_report)


def _add_task(commands: "Commands") -> None:
    command = commands.add_parser("task", help="write a procedural task: pictures, train.jsonl, heldout.jsonl")
    command.add_argument("name", help="shapes")
    command.add_argument("out", type=Path, metavar="FOLDER")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as question=name")
    command.add_argument("--train", type=int, default=4000, help="training problems (default 4000)")
    command.add_argument("--heldout", type=int, default=600, help="held-out problems (default 600)")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_task)


def _add_tiny_model(commands: "Commands") -> None:
    command = commands.add_parser("tiny-model", help="write a tiny random-weight checkpoint of a real architecture")
    command.add_argument("family", help="qwen2_5_vl, qwen2_vl, smolvlm or idefics3")
    command.add_argument("out", type=Path, metavar="FOLDER")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_tiny_model)


def _add_quickstart(commands: "Commands") -> None:
    command = commands.add_parser("quickstart", help="the whole way on a CPU in minutes: data, cold start, RL, report")
    command.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    command.add_argument("--recipes", type=Path, default=Path("recipes"), help="folder of quickstart.yaml")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_quickstart)


def _train(options: argparse.Namespace) -> None:
    from sightline.config import TrainRecipe
    from sightline.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, TrainRecipe)
    _quiet_libraries()
    if options.dry_run:
        from sightline.dry_run import plan_training

        print(plan_training(recipe))
        return
    from sightline.report import write_report
    from sightline.train import train

    run_folder = train(recipe)
    print(f"report: {write_report(run_folder)}")


def _sft(options: argparse.Namespace) -> None:
    from sightline.config import SftRecipe
    from sightline.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, SftRecipe)
    _quiet_libraries()
    if options.dry_run:
        from sightline.dry_run import plan_fine_tuning

        print(plan_fine_tuning(recipe))
        return
    from sightline.report import write_report
    from sightline.sft import fine_tune

    run_folder = fine_tune(recipe)
    print(f"report: {write_report(run_folder)}")


def _evaluate(options: argparse.Namespace) -> None:
    from sightline.config import EngineAlone
    from sightline.evaluate import evaluate_checkpoint, evaluation_table
    from sightline.files import write_json_atomic
    from sightline.recipe import resolve_recipe
    from sightline.rewards.config import RewardConfig

    _quiet_libraries()
    sections = _evaluation_sections(options)
    evaluation = evaluate_checkpoint(
        options.model,
        sections["data"],
        reward=resolve_recipe(sections["reward"], RewardConfig, source="the reward section"),
        num_samples=_at_least_one(options.samples, "--samples"),
        temperature=options.temperature,
        max_response_tokens=_at_least_one(options.max_response_tokens, "--max-response-tokens"),
        max_sequences=_at_least_one(options.max_sequences, "--max-sequences"),
        seed=options.seed,
        blank_images=options.blank_images,
        engine=resolve_recipe(sections["engine"], EngineAlone, source="sightline evaluate"),
    )
    print(evaluation_table(evaluation))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(options.json, evaluation)
    print(f"JSON: {options.json}")


def _evaluation_sections(options: argparse.Namespace) -> dict[str, Any]:
    """The data and reward sections, and what chooses the engine: of the recipe, then what is given for itself."""
    from sightline.recipe import apply_override, read_yaml

    recipe = {} if options.recipe is None else read_yaml(options.recipe)
    data = recipe["data"] if isinstance(recipe.get("data"), dict) else {}
    asked = {key: data[key] for key in ("prompt_template", "system_prompt") if key in data}
    vllm = {} if options.engine == "transformers" else _recipes_vllm(recipe)
    content: dict[str, Any] = {"data": asked, "reward": recipe.get("reward") or {}, "vllm": vllm}
    for override in options.overrides:
        if not override.startswith(("data.", "reward.", "vllm.")):
            raise ConfigError(
                f"{override!r} is no key of data or reward, nor of vllm, such as reward.grading.answer_from=[boxed]"
            )
        apply_override(content, override)
    given = {"prompt_template": options.prompt_template, "system_prompt": options.system_prompt, "path": options.data}
    content["data"] |= {key: value for key, value in given.items() if value is not None}
    engine = options.engine or recipe.get("engine", "auto")
    return {**content, "engine": {"engine": engine, "vllm": content["vllm"]}}


def _recipes_vllm(recipe: dict[str, Any]) -> dict[str, Any]:
    """A training's `vllm` section, less how the engine lived with the learner: here it is alone."""
    from sightline.config import LEARNERS_VLLM_KEYS

    vllm = recipe.get("vllm")
    return {key: value for key, value in vllm.items() if key not in LEARNERS_VLLM_KEYS} if vllm else {}


def _report(options: argparse.Namespace) -> None:
    from sightline.report import write_report

    print(write_report(options.run_folder))


def _task(options: argparse.Namespace) -> None:
    import yaml

    from sightline.tasks import write_task

    settings: dict[str, object] = {}
    for option in options.overrides:
        key, separator, text = option.partition("=")
        if not separator:
            raise ConfigError(f"{option!r} is no option; write key=value, such as question=name")
        try:
            settings[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{option!r}: the value can't be read as YAML") from error
    files = write_task(
        options.name,
        options.out,
        num_train=options.train,
        num_heldout=options.heldout,
        seed=options.seed,
        options=settings,
    )
    print(files.train)
    print(files.heldout)


def _tiny_model(options: argparse.Namespace) -> None:
    from sightline.models.tiny import write_tiny_model

    _quiet_libraries()
    num_parameters = write_tiny_model(options.family, options.out, seed=options.seed)
    print(f"{options.out}: {options.family}, {num_parameters:,} parameters")


def _quickstart(options: argparse.Namespace) -> None:
    from sightline.quickstart import quickstart

    _quiet_libraries()
    summary = quickstart(options.out, seed=options.seed, recipes=options.recipes)
    print(json.dumps(summary, indent=2))
    print(f"report: {options.out / 'report.html'}")


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1")
    return value
