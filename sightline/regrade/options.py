"""What `sightline grade` may be told."""

from dataclasses import dataclass, field
from typing import Literal

from sightline.errors import ConfigError
from sightline.grading.options import GradingConfig
from sightline.types import AnswerKind

Compat = Literal["r1v"]
_OF_OUR_RULES = {  # keys of the grading section, and how the command line calls them
    "answer_from": "--answer-from",
    "relative_tolerance": "--tolerance",
    "iou_threshold": "--iou-threshold",
    "box_space": "--box-space",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogOptions:
    """Which columns hold what, and how answers are graded. Raises ConfigError for an option without effect."""

    gold: str | None = None  # a column, dots lead inside; None: found by its name
    response: str | None = None
    choices: str | None = None
    kind: AnswerKind | None = None  # of all golds; None: as each row says, or else as its gold looks
    compat: Compat | None = None  # grade as this predecessor does; None: by our rules
    grading: GradingConfig = field(default_factory=GradingConfig)

    def __post_init__(self) -> None:
        if self.kind == "none":
            raise ConfigError("--kind is none, which says that there is nothing to grade; leave it out")
        if self.compat is None:
            return
        usual = GradingConfig()
        changed = [flag for name, flag in _OF_OUR_RULES.items() if getattr(self.grading, name) != getattr(usual, name)]
        changed += [f"--{name}" for name in ("kind", "choices") if getattr(self, name) is not None]
        for flag in changed:
            raise ConfigError(
                f"{flag} has no effect with --compat {self.compat}, which has its own rules; leave it out"
            )
