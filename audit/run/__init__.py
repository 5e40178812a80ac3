"""The pipeline and its run folder: configuration, stages, controls, manifest, resume."""
