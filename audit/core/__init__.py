"""Leaf of the package: types, files, registry, errors and seeds. Imports nothing else of ours."""
