"""lm-evaluation-harness: our models as its models, our benchmarks as its tasks."""
