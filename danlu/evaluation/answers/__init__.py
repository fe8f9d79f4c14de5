"""What a reply says its answer is, and whether that is right: numbers, letters, mathematics, code, refusals."""
