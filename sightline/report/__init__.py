"""The HTML report of a run, made from its run directory alone."""

from sightline.report.page import write_report

__all__ = ["write_report"]
