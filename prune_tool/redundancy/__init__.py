"""How much of a layer a task needs, from features and labels alone: no images, no models, no files."""
