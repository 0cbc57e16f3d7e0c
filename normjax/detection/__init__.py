"""Training of a small detector on the backbone of a run, and its scores."""
