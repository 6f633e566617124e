"""What the user brings: labelled images, and a backbone with its preprocessing."""
