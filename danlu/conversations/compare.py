"""The stage `comparisons`: the demo's own comparisons, for the reward model (recipe, section 8).

In: the generated conversations, and what the fine-tuned model said to some of their prompts. Out, in `comparisons/` of
the stage's folder, JSON lines: `pmp.jsonl`, many pairs, a part of them the wrong way round; `reward.jsonl`, fewer and
all the right way round, the model's own mistakes first; `test.jsonl` and `unseen.jsonl`, pairs of the conversations'
tests, and in the first also of sampled prompts held back; `prompts.jsonl`, the conversations that stand in no
comparison, for PPO. Every pair is a right reply and a wrong one by the conversation's checker; `source` says what the
wrong one is: `sampled`, or a kind of `wrong_replies.py`.

No prompt of a test is near one that is trained on (`prompt_split.py`), and each conversation serves one file alone.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from danlu.conversations.comparison_figures import comparison_figures
from danlu.conversations.comparisons import Comparison
from danlu.conversations.config import ComparisonsConfig
from danlu.conversations.prompt_split import split_by_prompt, without_shared_prompts
from danlu.conversations.records import Conversation, Message, read_conversations
from danlu.conversations.responses import JudgedResponses, judge_responses, sampled_pairs
from danlu.conversations.wrong_replies import Kind, ReplyPool, reply_pool, wrong_reply
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed

KIND_SHARES: dict[Kind, float] = {"equal": 0.55, "language": 0.2, "cut": 0.25}
"""How often each kind of rule-made pair is drawn. A conversation that does not allow the kind drawn (a digit cannot be
cut, a copied word not translated) gives an `equal` pair, so that about 0.6 of all are such: the majority is told apart
by what the prompt asks, and neither by length nor by language. Our choice."""

TrainingSets = tuple[list[Comparison], list[Comparison], list[Conversation]]
"""The pairs for pretraining, those for the reward model, and the conversations that neither uses."""


def make_comparisons(config: ComparisonsConfig) -> Path:
    """Write the five files and the figures; the folder with the files."""
    train, test, unseen = (
        list(read_conversations(config.conversations / f"{name}.jsonl")) for name in ("train", "test", "unseen")
    )
    judged = list(judge_responses(config.responses, train)) if config.responses else []
    sampled, held_back = _sampled(config, judged)
    tests = {"test": [*_test_pairs(config, "test", test), *held_back], "unseen": _test_pairs(config, "unseen", unseen)}
    kept, num_shared = without_shared_prompts(train, [*tests["test"], *tests["unseen"]])
    pmp, reward, prompts = _training_sets(config, kept, sampled)
    sets = {"pmp": _noisy(config, pmp), "reward": reward, **tests}
    product = config.out / "comparisons"
    with publish(product) as aside:
        aside.mkdir(parents=True)
        for name, pairs in sets.items():
            _write_lines(aside / f"{name}.jsonl", pairs)
        _write_lines(aside / "prompts.jsonl", prompts)
    dropped = {
        "held_back_or_near_a_test_prompt": num_shared,
        "no_wrong_test_reply": len(test) + len(unseen) - sum(len(items) for items in tests.values()) + len(held_back),
    }
    write_json(
        config.out / "figures.json",
        comparison_figures(sets, prompts, judged, dropped, round(config.label_noise * len(pmp))),
    )
    return product


def _sampled(config: ComparisonsConfig, judged: Sequence[JudgedResponses]) -> tuple[list[Comparison], list[Comparison]]:
    """The pairs of the model's own mistakes: for training, and held back for the test."""
    source = Random(derive_seed(config.seed, "sampled"))
    pairs = [pair for responses in judged for pair in sampled_pairs(source, responses)]
    return split_by_prompt(pairs, config.sampled_test_share, config.seed)


def _test_pairs(config: ComparisonsConfig, name: str, items: Sequence[Conversation]) -> list[Comparison]:
    """A rule-made pair for each conversation of a test, its wrong replies made of the test's own words."""
    source, pool = Random(derive_seed(config.seed, name)), reply_pool(items)
    return [pair for item in items if (pair := rule_pair(source, item, pool))]


def rule_pair(source: Random, item: Conversation, pool: ReplyPool) -> Comparison | None:
    """The conversation's reply beside a wrong one of a drawn kind, else of one that it allows; None if none is."""
    drawn = source.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    for kind in dict.fromkeys((drawn, *KIND_SHARES)):
        if wrong := wrong_reply(source, item, kind, pool):
            return Comparison(item.prompt, item.reply, wrong, kind, item.skill, item.language)
    return None


def _training_sets(
    config: ComparisonsConfig, kept: Sequence[Conversation], sampled: Sequence[Comparison]
) -> TrainingSets:
    """The model's own mistakes go to the reward set as far as it is large, rule-made pairs fill both sets up."""
    pmp: list[Comparison] = []
    reward: list[Comparison] = []
    allowed = {item.prompt for item in kept}
    for pairs in _by_prompt(config, [pair for pair in sampled if pair.prompt in allowed]):
        # The pairs of a prompt stay together.
        room = reward if len(reward) + len(pairs) <= config.num_reward else pmp
        room += pairs
    del pmp[config.num_pmp :]
    used = {pair.prompt for pair in [*pmp, *reward]}
    unused = [item for item in kept if item.prompt not in used]
    pairs_left = _rule_pairs(config, unused, reply_pool(kept))
    with ProgressBar("comparisons", total=config.num_pmp + config.num_reward, unit="pairs") as bar:
        bar.advance(len(pmp) + len(reward))
        for room, size in ((reward, config.num_reward), (pmp, config.num_pmp)):
            for pair in itertools.islice(pairs_left, size - len(room)):
                room.append(pair)
                bar.advance()
    used = {pair.prompt for pair in [*pmp, *reward]}
    prompts = [item for item in kept if item.prompt not in used]
    if len(pmp) < config.num_pmp or not prompts:
        raise UserError(
            f"{len(kept)} conversations are not enough for {config.num_pmp + config.num_reward} comparisons and the "
            "prompts of PPO",
            where="comparisons.num_pmp",
            mend="Lower it, or raise conversations.num_conversations",
        )
    for name, room in (("pmp", pmp), ("reward", reward)):
        Random(derive_seed(config.seed, "order", name)).shuffle(room)
    return pmp, reward, prompts


def _rule_pairs(config: ComparisonsConfig, items: Sequence[Conversation], pool: ReplyPool) -> Iterator[Comparison]:
    """Rule-made pairs of conversations in a random order."""
    source = Random(derive_seed(config.seed, "rules"))
    for item in source.sample(items, len(items)):
        if pair := rule_pair(source, item, pool):
            yield pair


def _by_prompt(config: ComparisonsConfig, pairs: Iterable[Comparison]) -> list[list[Comparison]]:
    """The pairs of each prompt, in a random order."""
    groups: dict[tuple[Message, ...], list[Comparison]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    shuffled = list(groups.values())
    Random(derive_seed(config.seed, "sampled order")).shuffle(shuffled)
    return shuffled


def _noisy(config: ComparisonsConfig, pairs: Sequence[Comparison]) -> list[Comparison]:
    """The pairs, `label_noise` of them with their sides exchanged."""
    source = Random(derive_seed(config.seed, "noise"))
    turned = set(source.sample(range(len(pairs)), round(config.label_noise * len(pairs))))
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if place in turned else pair
        for place, pair in enumerate(pairs)
    ]


def _write_lines(path: Path, items: Iterable[Comparison | Conversation]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for item in items:
            stream.write(json.dumps(item.to_json(), ensure_ascii=False) + "\n")
