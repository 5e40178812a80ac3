"""Parts of examples/semsim_study.py."""
