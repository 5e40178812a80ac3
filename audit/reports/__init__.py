"""Reports of a run: ``summary.json``, ``findings.jsonl``, and the pages for people."""

from fl_audit.reports.html import build_reports

__all__ = ["build_reports"]
