"""The Daft plan: independent pieces of work, in this process's children or on a Ray cluster, the same either way.

A piece reads and writes files whole or not at all and hands back a few figures; everything that must see the whole
corpus (duplicates) sees ids and numbers alone and is done between two such plans, by the process that started them.
"""

import base64
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from danlu.corpus.config import CorpusConfig
from danlu.corpus.tokens import load_daft
from danlu.run.errors import UserError, first_line
from danlu.run.folder import say

Work = Callable[[Any], dict[str, Any]]
"""Does one piece; what it returns must be JSON."""


def start_engine(config: CorpusConfig) -> int:
    """Make Daft run where the configuration says; how many pieces may be worked on at once. Raises UserError where Ray
    is not installed or the cluster does not answer."""
    daft = load_daft()
    if config.engine == "embedded":
        return config.workers or os.cpu_count() or 1
    try:
        import ray

        if not ray.is_initialized():
            ray.init(
                address=config.address or None,
                num_cpus=None if config.address else config.workers or None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        daft.set_runner_ray(address=config.address or None, noop_if_initialized=True)
        if daft.get_or_create_runner().name != "ray":
            raise RuntimeError("this process has already worked without it; begin a new one")
        cores = int(ray.cluster_resources().get("CPU", 1))
    except ImportError as error:
        raise UserError("Ray is not installed", where="--engine ray", mend="pip install 'danlu[cluster]'") from error
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = config.address or "a local Ray"
        raise UserError(f"Ray cannot be reached ({first_line(error)})", where=where) from error
    say(f"corpus: on Ray, {cores} processor cores")
    return config.workers or cores


def run_pieces(work: Work, pieces: list[Any], config: CorpusConfig, workers: int) -> Iterator[dict[str, Any]]:
    """Do `work` for each piece; results as they come. A UserError of a piece is raised here.

    `work` and the pieces are sent to other processes by pickling.
    """
    if not pieces:
        return
    daft = load_daft()

    @daft.cls(max_concurrency=min(workers, len(pieces)))
    class Worker:
        def __init__(self, packed: str) -> None:
            self.work: Work = pickle.loads(base64.b64decode(packed))

        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
        def do(self, piece: Any) -> Any:
            return [answer(self.work, packed) for packed in piece.to_pylist()]

    worker = Worker(pack(work))
    frame = daft.from_pydict({"piece": [pack(piece) for piece in pieces]})
    if config.engine == "ray":
        frame = frame.into_partitions(len(pieces))
    with daft.execution_config_ctx(default_morsel_size=1):
        for row in frame.select(worker.do(daft.col("piece")).alias("result")).iter_rows():
            result: dict[str, Any] = json.loads(row["result"])
            if "failed" in result:
                raise UserError(result["failed"])
            yield result


def pack(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def answer(work: Work, packed: str) -> str:
    """The result of one piece as JSON; a mistake the user can mend under `failed`, a full disk among them."""
    try:
        return json.dumps(work(pickle.loads(base64.b64decode(packed))))
    except UserError as error:
        return json.dumps({"failed": str(error)})
    except OSError as error:
        if error.errno is None:
            raise
        return json.dumps({"failed": f"{error.filename or ''}: {error.strerror}"})
