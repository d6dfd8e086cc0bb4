"""`sightline data COMMAND`: inspect, convert, filter, prepare, synthesize."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from sightline.data import DataConfig
    from sightline.models.config import ModelConfig

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

_PATH = "file, folder, hub name, or a recipe (.yaml), whose data section is taken"
_KEYS = "keys of a recipe's data section, such as data.format=verl data.rows=first:1000"


def add_data_commands(commands: "Commands") -> None:
    """Add `data`, and the commands behind it, to the command line."""
    data = commands.add_parser("data", help="look at data, convert it, filter it, fetch it, make it")
    inner = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_inspect(inner)
    _add_convert(inner)
    _add_filter(inner)
    _add_prepare(inner)
    _add_synthesize(inner)


def _add_inspect(commands: "Commands") -> None:
    command = _add(commands, "inspect", _inspect, "what is in a data set, and which rows can't be used, and why")
    _add_source(command)
    command.add_argument("--model", metavar="CHECKPOINT", help="count tokens and show pictures as this model sees them")
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="look for its questions among the rows; repeatable",
    )
    command.add_argument("--json", action="store_true", help="the figures as JSON, nothing else, on standard output")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page with examples")
    command.add_argument("--fail-on-bad-rows", action="store_true", help="exit code 2 if a row can't be used")


def _add_convert(commands: "Commands") -> None:
    command = _add(commands, "convert", _convert, "write data as our own rows; the filters of the data section act")
    _add_source(command, out="OUT.jsonl|OUT.parquet")


def _add_filter(commands: "Commands") -> None:
    command = _add(commands, "filter", _filter, "keep the problems that a model solves now and then")
    _add_source(command, out="OUT.jsonl|OUT.parquet", keys=f"{_KEYS}, or of the filter, such as num_samples=16")
    command.add_argument("--model", required=True, metavar="CHECKPOINT", help="folder or hub name")
    command.add_argument("--pass-rate", required=True, metavar="LOW..HIGH", help="share of right answers, as 0.1..0.9")
    command.add_argument("--json", action="store_true", help="the figures as JSON on standard output")


def _add_prepare(commands: "Commands") -> None:
    command = _add(commands, "prepare", _prepare, "fetch and convert a published training set")
    command.add_argument("name", nargs="?", metavar="NAME")
    command.add_argument("out", nargs="?", type=Path, metavar="FOLDER")
    command.add_argument("--list", action="store_true", help="the sets that are known")
    command.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="a local copy of the hub's files")
    command.add_argument("--images", type=Path, metavar="PATH", help="folder or archive of pictures not on the hub")
    command.add_argument("--revision", metavar="COMMIT", help="commit or tag of the hub set (default: the newest)")
    command.add_argument("--accept-num-rows", action="store_true", help="also if the number of rows is not as expected")
    command.add_argument("--max-bad-fraction", type=float, default=0.01, metavar="SHARE", help="default 0.01")


def _add_synthesize(commands: "Commands") -> None:
    command = _add(
        commands, "synthesize", _synthesize, "have an LLM rewrite questions to be verifiable, and verify them"
    )
    _add_source(command, out="OUT.jsonl", keys=f"{_KEYS}, or of the synthesis, such as num_samples=4 concurrency=16")
    command.add_argument("--endpoint", required=True, metavar="URL", help="OpenAI-compatible, http://host:8000/v1")
    command.add_argument("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    command.add_argument("--json", action="store_true", help="the figures as JSON on standard output")


def _add(
    commands: "Commands", name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_source(command: argparse.ArgumentParser, *, out: str | None = None, keys: str = _KEYS) -> None:
    command.add_argument("path", metavar="PATH" if out is None else "SRC", help=_PATH)
    if out is not None:
        command.add_argument("out", type=Path, metavar=out)
    command.add_argument("overrides", nargs="*", metavar="key=value", help=keys)


def _sections(options: argparse.Namespace, *, checkpoint: str | None = None) -> dict[str, dict[str, Any]]:
    """The keys that the command line gives, by section; those without one are the command's own, under "".

    Raises ConfigError for keys of a model where the command has no checkpoint.
    """
    from sightline.recipe import apply_override, read_yaml

    path: str = options.path
    content: dict[str, Any] = {"data": path}
    if path.lower().endswith((".yaml", ".yml")):
        recipe = read_yaml(Path(path))
        if "data" not in recipe:
            raise ConfigError(f"{path}: this recipe has no data section")
        content = {"data": recipe["data"]}
    if checkpoint is not None:
        content["model"] = checkpoint
    own: dict[str, Any] = {}
    for override in options.overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section == "model" and checkpoint is None:
            raise ConfigError(f"{override!r} has no effect without a checkpoint; leave it out")
        apply_override(content if section in ("data", "model") else own, override)
    return {**content, "": own}


def _data(sections: Mapping[str, Any], path: str) -> "DataConfig":
    from sightline.data import DataConfig
    from sightline.recipe import resolve_recipe

    return resolve_recipe(sections["data"], DataConfig, source=path)


def _model(sections: Mapping[str, Any]) -> "ModelConfig | None":
    from sightline.models.config import ModelConfig
    from sightline.recipe import resolve_recipe

    return resolve_recipe(sections["model"], ModelConfig, source="--model") if "model" in sections else None


def _refuse_own_keys(sections: Mapping[str, dict[str, Any]]) -> None:
    for key in sections[""]:
        raise ConfigError(f"{key!r} is no key of this command; keys of the data section are written data.{key}=...")


def _own(sections: Mapping[str, dict[str, Any]], **options: object) -> dict[str, object]:
    """The command's own keys; raises ConfigError for one that an option gives already."""
    for key in sections[""]:
        if key in options:
            raise ConfigError(f"{key!r} is given by an option of this command already; leave one of the two out")
    return {**sections[""], **options}


def _inspect(options: argparse.Namespace) -> None:
    from sightline.curation.inspection.inspect import inspect_data
    from sightline.curation.inspection.text import inspection_text

    sections = _sections(options, checkpoint=options.model)
    _refuse_own_keys(sections)
    inspected = inspect_data(_data(sections, options.path), model=_model(sections), against=options.against)
    if options.html is not None:
        from sightline.curation.inspection.page import write_inspection_page

        if options.html.resolve() == Path(options.path).resolve():
            raise ConfigError(f"{options.html} is the file that is read; name another one for --html")
        write_inspection_page(inspected, options.html)
    inspection = inspected.inspection
    if options.json:
        print(json.dumps(inspection.as_json(), indent=2))
    else:
        print(inspection_text(inspection))
    if options.html is not None:
        print(f"page: {options.html}", file=sys.stderr if options.json else sys.stdout)
    if options.fail_on_bad_rows and inspection.num_bad:
        raise DataError(f"{inspection.num_bad} of {inspection.num_rows} rows can't be used")


def _convert(options: argparse.Namespace) -> None:
    from sightline.curation.convert import conversion_text, convert

    sections = _sections(options)
    _refuse_own_keys(sections)
    print(conversion_text(convert(_data(sections, options.path), options.out)))


def _filter(options: argparse.Namespace) -> None:
    from sightline.curation.pass_rate import PassRateConfig, filter_by_pass_rate
    from sightline.recipe import resolve_recipe

    sections = _sections(options, checkpoint=options.model)
    low, separator, high = options.pass_rate.partition("..")
    try:
        bounds = {"low": float(low), "high": float(high)}
    except ValueError:
        separator = ""
        bounds = {}
    if not separator:
        raise ConfigError(f"--pass-rate is {options.pass_rate!r}; write its bounds as 0.1..0.9")
    config = resolve_recipe(_own(sections, **bounds), PassRateConfig, source="sightline data filter")
    model = _model(sections)
    assert model is not None, "argparse requires it"
    report = filter_by_pass_rate(_data(sections, options.path), options.out, model=model, config=config)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text())


def _prepare(options: argparse.Namespace) -> None:
    from sightline.curation.prepared.known_sets import known_sets
    from sightline.curation.prepared.prepare import prepare, prepared_text

    if options.list and options.name is not None:
        raise ConfigError(f"--list takes no set, and {options.name!r} is one; leave one of the two out")
    if options.list:
        for each in known_sets():
            print(f"{each.name:24}{each.num_rows or 'any number of'} rows: {each.about}")
        return
    if options.name is None or options.out is None:
        raise ConfigError("name a set and a folder: sightline data prepare NAME FOLDER; --list shows the sets")
    report = prepare(
        options.name,
        options.out,
        source=options.source,
        images=options.images,
        revision=options.revision,
        accept_num_rows=options.accept_num_rows,
        max_bad_fraction=options.max_bad_fraction,
    )
    print(prepared_text(report))


def _synthesize(options: argparse.Namespace) -> None:
    from sightline.curation.synthesis.config import SynthesisConfig
    from sightline.curation.synthesis.synthesize import summary_text, synthesize, written_files
    from sightline.data import load_rows
    from sightline.data.writing import refuse_inputs
    from sightline.images import ImageStore
    from sightline.recipe import resolve_recipe

    sections = _sections(options)
    own = _own(sections, base_url=options.endpoint, model=options.model)
    config = resolve_recipe(own, SynthesisConfig, source="sightline data synthesize")
    data = _data(sections, options.path)
    refuse_inputs(data, *written_files(options.out))
    images = ImageStore(allow_urls=data.allow_urls)
    problems = load_rows(data, images).problems
    summary = synthesize(problems, images, options.out, config=config)
    print(json.dumps(asdict(summary), indent=2) if options.json else summary_text(summary))
    if summary.stopped_by is not None:
        raise RunError(summary.stopped_by)
