"""datatrove's side of `near_duplicates.py`; runs in the environment of `corpus-peer-requirements.txt`.

Arguments: a folder with `input/*.jsonl`, and the language. Prints a line of JSON: processor seconds of each of the four
steps (signatures, buckets, clusters, filter), and how many documents were kept.
"""

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def main() -> None:
    folder, language = Path(sys.argv[1]), sys.argv[2]
    logging.disable(logging.CRITICAL)
    config = MinhashConfig()  # 14 buckets of 8 hashes over 5-grams, as ours
    reader = JsonlReader(str(folder / "input"))
    steps = {
        "signatures": [reader, MinhashDedupSignature(str(folder / "signatures"), config=config, language=language)],
        "buckets": [MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)],
        "clusters": [MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config=config)],
        "filter": [
            reader,
            MinhashDedupFilter(str(folder / "removed")),
            JsonlWriter(str(folder / "kept"), compression=None),
        ],
    }
    seconds = {}
    for name, pipeline in steps.items():
        started = cpu_seconds()
        # One bucket after another in this process: processor seconds are told, not those of the clock.
        tasks = config.num_buckets if name == "buckets" else 1
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / name))
        executor.run()
        seconds[name] = cpu_seconds() - started
    kept = [json.loads(line)["id"] for path in (folder / "kept").glob("*.jsonl") for line in path.open()]
    (folder / "kept.json").write_text(json.dumps(kept))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"cpu_seconds": seconds, "kept": len(kept), "peak_megabytes": peak, "at": time.time()}))


def cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
