"""Generation: key/value cache, batches of rows that come and go, sampling, streaming."""
