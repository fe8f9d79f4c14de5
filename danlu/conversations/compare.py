"""The stage `comparisons`: the demo's own comparisons, for the reward model (recipe, section 8).

In: the generated conversations, and what the fine-tuned model said to some of their prompts. Out, in `comparisons/` of
the stage's folder, JSON lines: `pmp.jsonl`, many pairs, a part of them the wrong way round; `reward.jsonl`, fewer, all
the right way round, the model's own mistakes first; `test.jsonl` and `unseen.jsonl`, pairs of the conversations' tests,
in the first also of sampled prompts held back; `prompts.jsonl`, the training conversations left over, for PPO. Every
pair is a right reply and a wrong one by the conversation's checker; its `source` says what the wrong one is: `sampled`
from the model, or a kind of `wrong_replies.py`.

No prompt of a test is near one that is trained on (`prompt_split.py`), and a conversation serves one file alone.

`figures.json` holds: `counts` (file, source, language), `prompts` (conversations left over, by skill), `length_bias`
(file, source; see `preference_baselines.py`), `turned_pairs` (pairs for pretraining the wrong way round), `responses`
(skill: how many were right, wrong, empty, unfinished), `dropped` (reason: how many conversations or pairs), `examples`
(source: pairs of the test).
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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

KIND_SHARES: dict[Kind, float] = {"equal": 0.45, "language": 0.13, "cut": 0.12, "more": 0.12, "slip": 0.18}
"""How often each kind of rule-made pair is drawn. A conversation that does not allow the kind drawn (a digit cannot be
cut, a copied word not translated) gives an `equal` pair, so that in the demo half are such: they are told apart by
what the prompt asks, and neither by length nor by language. Our choice."""


@dataclass
class TrainingPairs:
    """The two sets to train on, while they are filled."""

    pmp: list[Comparison] = field(default_factory=list)
    reward: list[Comparison] = field(default_factory=list)

    @property
    def prompts(self) -> set[tuple[Message, ...]]:
        """The prompts that are used up."""
        return {pair.prompt for pair in (*self.pmp, *self.reward)}


def make_comparisons(config: ComparisonsConfig) -> Path:
    """Write the five files and the figures; the folder with the files."""
    train, test, unseen = (
        list(read_conversations(config.conversations / f"{name}.jsonl")) for name in ("alignment", "test", "unseen")
    )
    dropped: Counter[str] = Counter()
    judged = list(judge_responses(config.responses, train)) if config.responses else []
    sampled, held_back = _sampled(config, judged)
    tests = {
        "test": [*_test_pairs(config, "test", test, dropped), *held_back],
        "unseen": _test_pairs(config, "unseen", unseen, dropped),
    }
    kept = _apart_from_tests(train, tests, held_back, dropped)
    pairs = _training_pairs(config, kept, sampled, dropped)
    used = pairs.prompts
    prompts = [item for item in kept if item.prompt not in used]
    _refuse_too_few(config, kept, pairs, prompts)
    pmp, turned = _noisy(config, pairs.pmp)
    sets = {"pmp": pmp, "reward": pairs.reward, **tests}
    product = config.out / "comparisons"
    with publish(product) as aside:
        aside.mkdir(parents=True)
        for name, comparisons in sets.items():
            _write_lines(aside / f"{name}.jsonl", comparisons)
        _write_lines(aside / "prompts.jsonl", prompts)
    write_json(config.out / "figures.json", comparison_figures(sets, prompts, judged, dropped, turned))
    return product


def _sampled(config: ComparisonsConfig, judged: Sequence[JudgedResponses]) -> tuple[list[Comparison], list[Comparison]]:
    """The pairs of the model's own mistakes: for training, and held back for the test."""
    source = Random(derive_seed(config.seed, "sampled"))
    pairs = [pair for responses in judged for pair in sampled_pairs(source, responses)]
    return split_by_prompt(pairs, config.sampled_test_share, config.seed)


def _test_pairs(
    config: ComparisonsConfig, name: str, items: Sequence[Conversation], dropped: Counter[str]
) -> list[Comparison]:
    """A rule-made pair of each conversation of a test.

    The wrong replies too are made of the test's words: made of others they would be known by those.
    """
    source = Random(derive_seed(config.seed, name))
    return list(itertools.chain.from_iterable(_rule_pairs(source, items, reply_pool(items), 1, dropped)))


def _apart_from_tests(
    train: Sequence[Conversation],
    tests: dict[str, list[Comparison]],
    held_back: Sequence[Comparison],
    dropped: Counter[str],
) -> list[Conversation]:
    """The training conversations that no test pair's prompt is near."""
    kept, num_dropped = without_shared_prompts(train, list(itertools.chain.from_iterable(tests.values())))
    num_held_back = len({pair.prompt for pair in held_back})
    dropped["conversations_held_back"] = num_held_back
    dropped["conversations_near_a_test_prompt"] = num_dropped - num_held_back
    return kept


def _training_pairs(
    config: ComparisonsConfig, kept: Sequence[Conversation], sampled: Sequence[Comparison], dropped: Counter[str]
) -> TrainingPairs:
    """The model's own mistakes go to the reward set as far as it is large; rule-made pairs fill both sets up."""
    pairs = TrainingPairs()
    with ProgressBar("comparisons", total=config.num_pmp + config.num_reward, unit="pairs") as bar:
        _place_sampled(config, kept, sampled, pairs, dropped)
        bar.advance(len(pairs.pmp) + len(pairs.reward))
        used = pairs.prompts
        unused = [item for item in kept if item.prompt not in used]
        source = Random(derive_seed(config.seed, "rules"))
        order = source.sample(unused, len(unused))
        made = _rule_pairs(source, order, reply_pool(kept), config.wrong_replies, dropped)
        for room, size in ((pairs.reward, config.num_reward), (pairs.pmp, config.num_pmp)):
            while len(room) < size and (own := next(made, None)):
                own = own[: size - len(room)]
                room += own
                bar.advance(len(own))
    for name, room in (("reward", pairs.reward), ("pmp", pairs.pmp)):
        Random(derive_seed(config.seed, "order", name)).shuffle(room)
    return pairs


def _place_sampled(
    config: ComparisonsConfig,
    kept: Sequence[Conversation],
    sampled: Sequence[Comparison],
    pairs: TrainingPairs,
    dropped: Counter[str],
) -> None:
    """Put the sampled pairs into the sets, those of one prompt together, prompt by prompt in a random order."""
    allowed = {item.prompt for item in kept}
    groups: dict[tuple[Message, ...], list[Comparison]] = {}
    for pair in sampled:
        groups.setdefault(pair.prompt, []).append(pair)
    order = list(groups.values())
    Random(derive_seed(config.seed, "sampled order")).shuffle(order)
    for group in order:
        if group[0].prompt not in allowed:
            dropped["sampled_pairs_near_a_test_prompt"] += len(group)
        elif len(pairs.reward) + len(group) <= config.num_reward:
            pairs.reward += group
        elif len(pairs.pmp) + len(group) <= config.num_pmp:
            pairs.pmp += group
        else:
            dropped["sampled_pairs_without_room"] += len(group)


def _rule_pairs(
    source: Random, items: Iterable[Conversation], pool: ReplyPool, count: int, dropped: Counter[str]
) -> Iterator[list[Comparison]]:
    """Up to `count` rule-made pairs of each conversation that allows one, their wrong replies different."""
    for item in items:
        drawn = (rule_pair(source, item, pool) for _ in range(count))
        pairs = {pair.rejected: pair for pair in drawn if pair}
        if pairs:
            yield list(pairs.values())
        else:
            dropped["conversations_without_a_wrong_reply"] += 1


def rule_pair(source: Random, item: Conversation, pool: ReplyPool) -> Comparison | None:
    """The conversation's reply beside a wrong one of a drawn kind, else of one that it allows; None if none is."""
    drawn = source.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    for kind in dict.fromkeys((drawn, *KIND_SHARES)):
        if wrong := wrong_reply(source, item, kind, pool):
            return Comparison(item.prompt, item.reply, wrong, kind, item.skill, item.language)
    return None


def _refuse_too_few(
    config: ComparisonsConfig, kept: Sequence[Conversation], pairs: TrainingPairs, prompts: Sequence[Conversation]
) -> None:
    wanted = config.num_pmp + config.num_reward
    if len(pairs.pmp) + len(pairs.reward) < wanted or not prompts:
        raise UserError(
            f"{len(kept)} conversations are not enough for {wanted} pairs and the prompts of PPO",
            where="comparisons.num_pmp",
            mend="Lower it, or raise conversations.num_alignment",
        )


def _noisy(config: ComparisonsConfig, pairs: Sequence[Comparison]) -> tuple[list[Comparison], int]:
    """The pairs with the two sides of some exchanged, and how many these are."""
    source = Random(derive_seed(config.seed, "noise"))
    turned = set(source.sample(range(len(pairs)), round(config.label_noise * len(pairs))))
    noisy = [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if place in turned else pair
        for place, pair in enumerate(pairs)
    ]
    return noisy, len(turned)


def _write_lines(path: Path, items: Iterable[Comparison | Conversation]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for item in items:
            stream.write(json.dumps(item.to_json(), ensure_ascii=False) + "\n")
