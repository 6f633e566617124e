"""What is kept on disk: run folders, the feature cache, fingerprints, atomic writes."""
