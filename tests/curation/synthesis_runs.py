"""Synthesis of a few scripted problems, as several tests run it."""

import json
from pathlib import Path
from typing import Any

from sightline.curation.synthesis.config import SynthesisConfig
from sightline.curation.synthesis.synthesize import SynthesisSummary, synthesize
from sightline.images import ImageStore
from tests.curation.scripted_server import ScriptedServer, cards


def config_for(server: ScriptedServer, **options: Any) -> SynthesisConfig:
    """Options that fit the server, with little waiting."""
    defaults = {"model": "scripted", "num_samples": 4, "retry_seconds": 0.01, "api_key_variable": "SIGHTLINE_TEST_KEY"}
    return SynthesisConfig(base_url=server.base_url, **{**defaults, **options})


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(server: ScriptedServer, out: Path, num_problems: int = 3, **options: Any) -> SynthesisSummary:
    """Synthesize from so many cards."""
    images = ImageStore()
    return synthesize(cards(num_problems, images), images, out, config=config_for(server, **options))
