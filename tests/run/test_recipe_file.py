"""Recipe files: what is wrong with one is said in one line that names file, table and key, before any work."""

from pathlib import Path
from typing import Any

import pytest

from danlu.recipe import Recipe
from danlu.run.errors import UserError
from danlu.run.recipe_file import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def refusal(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "my.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_recipe(path, Recipe)
    message = str(error.value)
    assert message.startswith(f"{path}: "), "the file is not named first"
    assert "\n" not in message, "more than one line"
    return message


WRONG: dict[str, tuple[str, list[str]]] = {
    "an unknown key": (
        "[pretrain.step]\nlearning_rat = 1e-3",
        ["unknown key `pretrain.step.learning_rat`", "Did you mean `learning_rate`?"],
    ),
    "an unknown table": ("[pretraining]\nseed = 1", ["unknown key `pretraining`", "Did you mean `pretrain`?"]),
    "an unknown key like no other": ("[sft]\nzzz = 1", ["unknown key `sft.zzz`", "Known here", "dropout"]),
    "text for a number": ('[pretrain.step]\nseed = "one"', ["`pretrain.step.seed`: expected an integer, got a string"]),
    "a number for a truth": ("[sft]\npacking = 1", ["`sft.packing`: expected true or false, got an integer"]),
    "a part for a whole": (
        "[pretrain.model]\nhidden_size = 64.5",
        ["`pretrain.model.hidden_size`: expected an integer, got a number"],
    ),
    "a number for a table": ("pretrain = 3", ["`pretrain`: expected a table, got an integer"]),
    "a word that is no choice": ('[pretrain.optimizer]\nname = "sgd"', ["'sgd'", "`pretrain.optimizer.name`"]),
    "an impossible value": ("[sft]\ndropout = 1.5", ["dropout must lie in [0, 1), not 1.5", "`sft`"]),
    "values that do not fit together": (
        "[pretrain.step]\nbatch_size = 7\nmicro_batch_size = 2",
        ["batch_size 7 must be a multiple of micro_batch_size 2", "`pretrain.step`"],
    ),
    "widths that do not divide": (
        "[pretrain.model]\nhidden_size = 100\nnum_attention_heads = 3\nnum_key_value_heads = 3",
        ["hidden_size 100", "`pretrain.model`"],
    ),
    "broken TOML": ("[pretrain\nseed = 1", ["not valid TOML", "line 1"]),
    "a key given twice": ("[sft]\ndropout = 0.1\ndropout = 0.2", ["not valid TOML"]),
}


@pytest.mark.parametrize(("content", "named"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(tmp_path: Path, content: str, named: list[str]) -> None:
    message = refusal(tmp_path, content)
    for part in named:
        assert part in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "not valid TOML" in refusal(tmp_path, b"[sft]\n# \xff\xfe\n")


@pytest.mark.parametrize(("make", "said"), [("nothing", "no such recipe"), ("a folder", "a folder, not a recipe")])
def test_a_missing_recipe_is_named(tmp_path: Path, make: str, said: str) -> None:
    path = tmp_path / "my.toml"
    if make == "a folder":
        path.mkdir()
    with pytest.raises(UserError, match=said) as error:
        read_recipe(path, Recipe)
    assert str(path) in str(error.value)


def test_values_reach_their_fields_and_others_keep_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[pretrain.step]\nseed = 7\nlearning_rate = 1\n[sft]\npacking = true\n")
    recipe = read_recipe(path, Recipe)
    assert (recipe.pretrain.step.seed, recipe.pretrain.step.learning_rate, recipe.sft.packing) == (7, 1.0, True)
    default: Any = Recipe()
    assert recipe.pretrain.model == default.pretrain.model
    assert recipe.sft.step == default.sft.step, "the nested defaults of a table that is named must stay its own"


def test_an_empty_recipe_is_the_default_one(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("")
    assert read_recipe(path, Recipe) == Recipe()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_projects_own_recipes_are_good(path: Path) -> None:
    assert read_recipe(path, Recipe) != Recipe()


def test_there_are_recipes() -> None:
    assert RECIPES
