"""Reports of a run: ``summary.json``, ``findings.jsonl``, and the pages for people."""
