"""The file that ships: written, opened, verified and timed."""
