"""datatrove's side of `corpus.py`; runs in the environment of `corpus-peer-requirements.txt`.

Argument: a folder with `input/*.jsonl` of pages (`id`, `text`: HTML). The steps that both sides have: main text by
trafilatura, Gopher's repetition and quality rules, MinHash in four passes, Parquet. Prints a line of JSON.
"""

import json
import logging
import resource
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter, ParquetWriter


def main() -> None:
    folder = Path(sys.argv[1])
    logging.disable(logging.CRITICAL)
    config = MinhashConfig()
    clean = JsonlReader(str(folder / "clean"))
    steps = {
        "extract and judge": [
            JsonlReader(str(folder / "input")),
            Trafilatura(timeout=30),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            JsonlWriter(str(folder / "clean"), compression=None),
        ],
        "signatures": [clean, MinhashDedupSignature(str(folder / "signatures"), config=config)],
        "buckets": [MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)],
        "clusters": [MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config=config)],
        "filter": [clean, MinhashDedupFilter(str(folder / "removed")), ParquetWriter(str(folder / "kept"))],
    }
    seconds = {}
    for name, pipeline in steps.items():
        before = cpu_seconds()
        tasks = config.num_buckets if name == "buckets" else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / name)).run()
        seconds[name] = cpu_seconds() - before
    print(json.dumps({"cpu_seconds": sum(seconds.values()), "steps": seconds}))


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


if __name__ == "__main__":
    main()
