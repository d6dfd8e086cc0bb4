"""Data of any format as our own rows, in a .jsonl or .parquet file that reads back without loss."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sightline.data.config import DataConfig
from sightline.data.filters import load_rows
from sightline.data.rows import BadRow
from sightline.data.writing import refuse_inputs, require_writable, write_problems
from sightline.images import ImageStore


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """What became of the rows."""

    out: Path
    num_rows: int  # that were read
    num_written: int
    bad: Mapping[str, int]  # rows that can't be used, by reason; the most frequent first
    bad_rows: tuple[BadRow, ...]
    left_out: Mapping[str, int]  # good rows that a filter left out, by filter


def convert(config: DataConfig, out: Path) -> ConversionReport:
    """Write the problems that the config's filters leave to `out`, whole or not at all.

    They are written without system prompt and template, so that a recipe asks both in the same way. Pictures stay
    encoded as they are. Raises DataError for another suffix than .jsonl or .parquet, if `out` is a file
    that is read here or can't be written, and for data that training would not start with either.
    """
    require_writable(out)
    refuse_inputs(config, out)
    images = ImageStore(allow_urls=config.allow_urls)
    data = load_rows(config, images)
    num_written = write_problems(out, data.problems, images)
    return ConversionReport(
        out=out,
        num_rows=data.num_rows,
        num_written=num_written,
        bad=dict(Counter(bad.reason_kind for bad in data.bad_rows).most_common()),
        bad_rows=data.bad_rows,
        left_out=data.left_out,
    )


def conversion_text(report: ConversionReport) -> str:
    """The report for a terminal: what was written, and what was left out and why."""
    lines = [f"{report.out}: {report.num_written:,} of {report.num_rows:,} rows"]
    first_messages = {bad.reason_kind: bad.message for bad in reversed(report.bad_rows)}
    lines += [f"  {reason:<18}{num:>8,}  {first_messages[reason]}" for reason, num in report.bad.items()]
    lines += [f"  {name:<18}{num:>8,}  left out by this filter" for name, num in report.left_out.items()]
    return "\n".join(lines)
