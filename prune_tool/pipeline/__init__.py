"""The stages as plain functions over a workspace and a run folder: the public Python API."""
