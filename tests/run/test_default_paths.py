"""The stages called one by one, without options, hand on to each other."""

from pathlib import Path

import pytest

from danlu.recipe import STAGES, Recipe, Stage

ROOT = Path("runs")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_default_inputs_are_default_outputs_of_other_stages(stage: Stage) -> None:
    table = getattr(Recipe(), stage.name)
    assert table.out == ROOT / stage.name
    for field, place in stage.inputs.items():
        # What a stage can do without is named by a run alone.
        assert getattr(table, field) in (None, ROOT / place), field
