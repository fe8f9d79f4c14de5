"""The benchmarks: how their questions are read, shown and answered. Prompts are the harness's own, word for word."""
