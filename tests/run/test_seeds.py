"""Seeds: one a purpose, the same on every machine and in every process."""

import subprocess
import sys
from pathlib import Path

import pytest

from danlu.run.seeds import derive_seed


def test_seeds_are_fixed_numbers() -> None:
    assert derive_seed(1, "weights") == derive_seed(1, "weights")
    assert [derive_seed(1), derive_seed(1, "weights"), derive_seed(2, "dropout", 3, 0)] == GOLDEN


# Written down once: a change would give every recipe other results.
GOLDEN = [8141974312213627701, 2433389647448479763, 3047697404392694072]


def test_every_purpose_has_its_own_seed() -> None:
    seeds = {
        derive_seed(seed, purpose, step, index)
        for seed in range(5)
        for purpose in ("dropout", "documents")
        for step in range(20)
        for index in range(5)
    }
    assert len(seeds) == 5 * 2 * 20 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_seeds_do_not_depend_on_the_interpreters_hash_seed(hash_seed: str) -> None:
    program = "from danlu.run.seeds import derive_seed; print(derive_seed(2, 'dropout', 3, 0))"
    output = subprocess.check_output(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed}, cwd=Path(__file__).parents[2], text=True
    )
    assert int(output) == GOLDEN[2]
