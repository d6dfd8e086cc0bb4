"""The folder of one run: recipe, metrics, rollouts, pictures, evaluations and checkpoints.

recipe.yaml                   the resolved recipe
metrics.jsonl                 one object a step
rollouts/step_000012.jsonl    one row a rollout
images/<digest>.png           pictures of the rollouts, at most 512 pixels a side
evaluations/<name>.json       "before", "step_000100", "after"
checkpoints/step_000100/      any files, and manifest.json
report.html                   written by sightline.report
lock                          held while a process writes
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self, cast

import yaml
from PIL import Image

from sightline.errors import RunError
from sightline.files import (
    drop_torn_line,
    fsync_folder,
    json_line,
    read_json_lines,
    read_json_object,
    remove,
    remove_temporaries,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from sightline.run_directory.checkpoints import Checkpoint, CheckpointFolder
from sightline.run_directory.lock import RunLock
from sightline.run_directory.recipe_check import plain_recipe, require_same_recipe

Metric = float | int | str | None

MAX_IMAGE_SIDE = 512  # pixels; enough to read a diagram in the report

_FOLDERS = ("rollouts", "images", "evaluations", "checkpoints")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of an evaluation or a picture: never a path


class RunDirectory:
    """One run on disk; made by `open`, to write, or by `read`."""

    def __init__(self, path: Path, *, lock: RunLock | None = None) -> None:
        self.path = path
        self._lock = lock
        self._checkpoints = CheckpointFolder(path / "checkpoints")

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        recipe: Mapping[str, object],
        command: str,
        may_change: frozenset[str] = frozenset(),
    ) -> Self:
        """Create the run or continue it, as the only writer until `close`.

        `command` is told to whoever finds the folder in use. A recipe that differs from the stored one
        outside the dotted prefixes `may_change` is refused; otherwise it takes the stored one's place.
        Raises RunError in one line if the folder is in use, is another recipe's, or can't be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = RunLock(path / "lock", command=command)
        except OSError as error:
            raise RunError(f"{path} can't be used as a run directory ({error}); name another output_dir") from error
        run = cls(path, lock=lock)
        try:
            run._prepare(plain_recipe(recipe), may_change=may_change)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run as it is now, to look at only; RunError if `path` is not a run directory."""
        if not path.is_dir():
            raise RunError(f"{path} is not a folder; give the output_dir of a run")
        if not (path / "recipe.yaml").is_file():
            raise RunError(f"{path} is not a run directory: it has no recipe.yaml; give the output_dir of a run")
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next process in; nothing can be written afterwards."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def report_path(self) -> Path:
        """Where the report goes."""
        return self.path / "report.html"

    def read_recipe(self) -> dict[str, object]:
        """The recipe as stored; RunError if the file is no YAML mapping."""
        try:
            recipe: object = yaml.safe_load(self.recipe_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            summary = " ".join(str(error).split())
            raise RunError(f"{self.recipe_path} can't be read ({summary}); restore it") from error
        if not isinstance(recipe, dict):
            raise RunError(f"{self.recipe_path} holds no mapping; restore it")
        return cast("dict[str, object]", recipe)

    def append_metrics(self, step: int, metrics: Mapping[str, Metric]) -> None:
        """Add the row of one step and wait until it is on the disk; NaN and infinities become null."""
        self._require_lock()
        is_new = not self.metrics_path.exists()
        with self.metrics_path.open("ab") as file:
            line = json_line({"step": step, **{key: part for key, part in metrics.items() if key != "step"}})
            file.write(line.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_folder(self.path)

    def read_metrics(self) -> list[dict[str, Metric]]:
        """Every row, oldest first, without a last line that was cut off."""
        return cast("list[dict[str, Metric]]", read_json_lines(self.metrics_path))

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, object]]) -> None:
        """Store the rollouts of one step, all or none."""
        self._require_lock()
        write_text_atomic(self._rollouts_path(step), "".join(json_line(row) for row in rows))

    def read_rollouts(self, step: int) -> list[dict[str, object]]:
        """The rollouts of one step; none if that step stored none."""
        return read_json_lines(self._rollouts_path(step))

    def rollout_steps(self) -> list[int]:
        """The steps with stored rollouts, in order."""
        return sorted(
            step for path in (self.path / "rollouts").glob("step_*.jsonl") if (step := _step_in(path.stem)) is not None
        )

    def has_image(self, digest: str) -> bool:
        """Whether `save_image` would have nothing to do."""
        return self._image_path(digest).exists()

    def save_image(self, digest: str, image: Image.Image) -> None:
        """Store a picture for the report, made smaller if need be; once for a digest."""
        self._require_lock()
        if self.has_image(digest):
            return
        smaller = image.convert("RGBA" if image.has_transparency_data else "RGB")
        smaller.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
        content = io.BytesIO()
        smaller.save(content, format="PNG", compress_level=1)  # a third of the time for a little more space
        write_bytes_atomic(self._image_path(digest), content.getvalue(), is_durable=False)

    def read_image(self, digest: str) -> bytes | None:
        """The stored picture as PNG; None if there is none."""
        if not _NAME.fullmatch(digest) or not self.has_image(digest):
            return None
        return self._image_path(digest).read_bytes()

    def write_evaluation(self, name: str, data: Mapping[str, object]) -> None:
        """Store the result of an evaluation in place of one of the same name."""
        self._require_lock()
        assert _NAME.fullmatch(name), f"evaluation name {name!r} is no file name"
        write_json_atomic(self._evaluation_path(name), data)

    def read_evaluations(self) -> dict[str, dict[str, object]]:
        """Every evaluation by name, names in alphabetical order."""
        paths = sorted((self.path / "evaluations").glob("*.json"))
        return {path.stem: read_json_object(path) for path in paths if _NAME.fullmatch(path.name)}

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: metrics, rollouts, and evaluations, "after" among them.

        The training loop calls it before it continues from the checkpoint of `step`, so that the steps it
        takes again are there once. Done twice, or cut short and done again, it comes to the same.
        """
        self._require_lock()
        rows = self.read_metrics()
        kept = [row for row in rows if cast("int", row["step"]) <= step]
        if len(kept) < len(rows):
            write_text_atomic(self.metrics_path, "".join(json_line(row) for row in kept))
        for rollouts_step in self.rollout_steps():
            if rollouts_step > step:
                remove(self._rollouts_path(rollouts_step))
        for name, data in self.read_evaluations().items():
            evaluated_step = data.get("step")
            if isinstance(evaluated_step, int) and evaluated_step > step:
                remove(self._evaluation_path(name))

    def new_checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A folder to write the checkpoint of `step` into.

        It counts once the block has ended without an exception: until then, and after a kill, the
        checkpoint is not there. Names in it are free, except "manifest.json" at its top.
        """
        self._require_lock()
        return self._checkpoints.new(step)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose every file is as written; warns of each newer, broken one."""
        return self._checkpoints.latest()

    def prune_checkpoints(self, keep: int) -> None:
        """Delete the oldest checkpoints beyond `keep`, at least 1, but never the newest that verifies."""
        self._require_lock()
        self._checkpoints.prune(keep)

    def _prepare(self, recipe: dict[str, object], *, may_change: frozenset[str]) -> None:
        """Clear what a killed process left unfinished, then compare or store the recipe."""
        for name in _FOLDERS:
            (self.path / name).mkdir(exist_ok=True)
        for folder in (self.path, *(self.path / name for name in _FOLDERS)):
            remove_temporaries(folder)
        if self.recipe_path.exists():
            stored = self.read_recipe()
            require_same_recipe(self.path, stored, recipe, may_change=may_change)
            drop_torn_line(self.metrics_path)
            if stored == recipe:
                return
        write_text_atomic(self.recipe_path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))

    def _rollouts_path(self, step: int) -> Path:
        return self.path / "rollouts" / f"step_{step:06d}.jsonl"

    def _image_path(self, digest: str) -> Path:
        return self.path / "images" / f"{digest}.png"

    def _evaluation_path(self, name: str) -> Path:
        return self.path / "evaluations" / f"{name}.json"

    def _require_lock(self) -> None:
        assert self._lock is not None, f"{self.path} is open for reading, or closed"


def _step_in(stem: str) -> int | None:
    """The step in "step_000012"; None for another name."""
    match = re.fullmatch(r"step_(\d{6,})", stem)
    return int(match[1]) if match else None
