"""Whether the models that the recipe names are there for the languages that it keeps."""

from collections.abc import Callable
from pathlib import Path

from danlu.corpus.config import CODE, CorpusConfig
from danlu.corpus.scores import classifier, perplexity
from danlu.run.errors import UserError


def check_models(config: CorpusConfig) -> list[str]:
    """Warnings for languages without a model. Raises UserError for a bound without one: it would drop nothing."""
    kinds: tuple[tuple[str, Callable[[Path], list[str]], str, dict[str, float]], ...] = (
        ("perplexity_models", perplexity.languages_of, "train-lm", config.quality.max_perplexity),
        ("quality_models", classifier.languages_of, "train-quality", config.quality.min_classifier),
        ("safety_models", classifier.languages_of, "train-safety", {}),
    )
    told = []
    for name, languages_of, verb, bounds in kinds:
        folder = getattr(config, name)
        if folder is None and not bounds:
            continue
        if folder is None:
            raise UserError(f"a bound needs {name}", where="corpus", mend=f"`danlu corpus {verb}` makes them")
        have = languages_of(folder) if folder.is_dir() else []
        if not have:
            raise UserError(f"{name}: holds no model", where=folder, mend=f"`danlu corpus {verb}` makes one")
        for language in bounds:
            if language not in have:
                raise UserError(
                    f"{name}: no model for `{language}`, which the recipe sets a bound for", where=folder,
                    mend=f"Train it: danlu corpus {verb} --languages {language}. Here are: {', '.join(have)}",
                )  # fmt: skip
        for language in config.languages:
            if language not in have and language != CODE:
                told.append(
                    f"no model for `{language}` in {folder}, its documents have no such score (`danlu corpus {verb}`)"
                )
    return told
