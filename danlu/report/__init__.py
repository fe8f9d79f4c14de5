"""One page that tells the story of a run, and the same figures as `summary.json`."""
