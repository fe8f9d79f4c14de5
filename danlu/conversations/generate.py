"""The stage `conversations`: the demo's own conversations, for training and for the test.

In: the corpus' training documents (for words). Out, in `conversations/` of the stage's folder, JSON lines:
`train.jsonl`; `alignment.jsonl`, conversations of the same kind that fine-tuning does not see, for the reward model
and PPO; `test.jsonl`, new combinations of words that training has seen; `unseen.jsonl`, words that no training
conversation contains. Whether a combination (`Exchange.key`) is trained on or tested is decided by its hash, so no
order of drawing can leak one into the other; the end asserts it.

`figures.json` holds: `counts` (file, skill, language), `words` (language: numbers and examples of `seen` and `unseen`,
`median_rank` of the copied words in both tests), `multi_turn`, `with_system` and `characters_per_conversation` of the
training file, `held_out_sums`, `examples` (skill: two conversations of the test).
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from danlu.conversations.config import ConversationsConfig
from danlu.conversations.figures import conversation_figures
from danlu.conversations.lexicon import Vocabulary, contained_strings, mine_words, split_words
from danlu.conversations.records import Conversation, Message
from danlu.conversations.skills import SKILLS, UNSEEN_SKILLS
from danlu.conversations.skills.arithmetic import held_out_sums, sum_key
from danlu.conversations.skills.exchange import LANGUAGES, Exchange, Scene, WordDraw
from danlu.conversations.skills.questions import THINGS
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.run.seeds import derive_seed

TEST_KEYS = 0.12
"""Part of a skill's combinations kept for the test. Our choice: small skills then fill 200 test conversations."""

MAX_ATTEMPTS = 3000
"""Fruitless draws in a row after which a skill counts as used up."""

NUM_DRAFTS = 6000
"""Conversations drawn to learn which strings the templates and own lists bring with them."""

SYSTEM_MESSAGES = {
    "zh": ("你是丹炉。", "你是助手丹炉，请简短回答。", "你是一个友好的助手。", "请直接回答问题。", "你的名字是丹炉。"),
    "en": ("You are Danlu.", "You are Danlu, a helpful assistant.", "Answer briefly.", "You are friendly and helpful.",
           "Your name is Danlu."),
}  # fmt: skip

Draw = dict[str, WordDraw]
"""The words to draw from, by language."""


@dataclass(frozen=True)
class Drawn:
    """A conversation with the keys of its exchanges, the checked one last."""

    conversation: Conversation
    keys: tuple[str, ...]


def generate_conversations(config: ConversationsConfig) -> Path:
    """Write the four files and the figures; the folder with the files."""
    vocabularies = _vocabularies(config)
    hidden = {word for vocabulary in vocabularies.values() for word in vocabulary.unseen}
    training = {name: words.training_draw(config.made_up_share) for name, words in vocabularies.items()}
    total = config.num_conversations + config.num_alignment
    with ProgressBar("conversations", total=total, unit="conversations") as bar:
        train, alignment = _train_sets(config, training, hidden, bar)
    test = _test_set(config, "test", {name: words.testing_draw() for name, words in vocabularies.items()}, training)
    unseen = _test_set(config, "unseen", {name: words.unseen_draw() for name, words in vocabularies.items()}, training)
    _assert_apart(train, alignment, test + unseen, hidden)
    files = {"train": train, "alignment": alignment, "test": test, "unseen": unseen}
    product = config.out / "conversations"
    with publish(product) as aside:
        aside.mkdir(parents=True)
        for name, drawn in files.items():
            _write_lines(aside / f"{name}.jsonl", drawn)
    sets = {name: [item.conversation for item in drawn] for name, drawn in files.items()}
    write_json(config.out / "figures.json", conversation_figures(sets, vocabularies))
    return product


def _vocabularies(config: ConversationsConfig) -> dict[str, Vocabulary]:
    """Words split so that templates and own lists contain no unseen one."""
    things = {name: partial(_own_thing, name) for name in LANGUAGES}
    own = {name: WordDraw(word=thing, frequent=thing) for name, thing in things.items()}
    source = Random(derive_seed(config.seed, "drafts"))
    fixed: set[str] = set()
    for number in range(NUM_DRAFTS):
        skill, language = list(SKILLS)[number % len(SKILLS)], LANGUAGES[number % 2]
        drawn = _draw(source, skill, language, own, own, config)
        fixed.update(*(contained_strings(message.content) for message in drawn.conversation.messages))
    mined = mine_words(config)
    return {name: split_words(mined[name], config, fixed) for name in LANGUAGES}


def _own_thing(language: str, source: Random) -> str:
    return source.choice(THINGS[language])


def _draw(source: Random, skill: str, language: str, words: Draw, training: Draw, config: ConversationsConfig) -> Drawn:
    """A conversation that ends with a scene of `skill`, behind other turns and a system message now and then."""
    scenes: list[Scene] = []
    if source.random() < config.multi_turn_share:
        for _ in range(source.choice((1, 1, 2))):
            other = source.choice(list(SKILLS))
            scenes.append(SKILLS[other](source, language, training[language]))
    scenes.append(SKILLS[skill](source, language, words[language]))
    exchanges = list(itertools.chain.from_iterable(scenes))
    messages = [message for exchange in exchanges for message in _messages(exchange)]
    if source.random() < config.system_share:
        messages.insert(0, Message("system", source.choice(SYSTEM_MESSAGES[language])))
    conversation = Conversation(tuple(messages), skill, language, exchanges[-1].check)
    return Drawn(conversation, tuple(exchange.key for exchange in exchanges))


def _messages(exchange: Exchange) -> tuple[Message, Message]:
    return Message("user", exchange.user), Message("assistant", exchange.reply)


def _kept_for_test(key: str, seed: int) -> bool:
    """Whether a combination belongs to the test. Sums have a list of their own, balanced over the digits."""
    if key.startswith("sum "):
        return key in _held_out_sum_keys()
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_KEYS * 2**64


def _held_out_sum_keys() -> frozenset[str]:
    return frozenset(sum_key(a, b) for a, b in held_out_sums())


def _distinct(
    draw: Callable[[], Drawn], good: Callable[[Drawn], bool], count: int, prompts: set[tuple[Message, ...]]
) -> Iterator[Drawn]:
    """Up to `count` good ones whose prompts are not among `prompts` yet; fewer when the skill is used up."""
    for _ in range(count):
        for _ in range(MAX_ATTEMPTS):
            drawn = draw()
            if drawn.conversation.prompt not in prompts and good(drawn):
                break
        else:
            return
        prompts.add(drawn.conversation.prompt)
        yield drawn


def _train_sets(
    config: ConversationsConfig, training: Draw, hidden: set[str], bar: ProgressBar
) -> tuple[list[Drawn], list[Drawn]]:
    """The conversations for fine-tuning and those for alignment, each in a random order.

    UserError when a skill has too few different ones for fine-tuning. For alignment a skill that is used up repeats
    conversations of the fine-tuning.
    """

    def good(drawn: Drawn) -> bool:
        if any(_kept_for_test(key, config.seed) for key in drawn.keys):
            return False
        return not _spells(drawn.conversation, hidden)

    train: dict[tuple[str, str], list[Drawn]] = {}
    prompts: set[tuple[Message, ...]] = set()
    for skill, language, count in _quotas(config, config.num_conversations):
        source = Random(derive_seed(config.seed, "train", skill, language))
        draw = partial(_draw, source, skill, language, training, training, config)
        found = train.setdefault((skill, language), [])
        for drawn in _distinct(draw, good, count, prompts):
            found.append(drawn)
            bar.advance()
        if len(found) < count:
            raise UserError(
                f"only {len(found)} different conversations of {count} could be drawn ({language})",
                where=f"conversations.{skill}_share",
                mend="Lower this share or num_conversations",
            )
    alignment: list[Drawn] = []
    # After all of the fine-tuning's, which thus do not depend on how many these are.
    for skill, language, count in _quotas(config, config.num_alignment):
        source = Random(derive_seed(config.seed, "alignment", skill, language))
        draw = partial(_draw, source, skill, language, training, training, config)
        fresh = list(_distinct(draw, good, count, prompts))
        known = train[skill, language]
        alignment += fresh + source.sample(known, min(len(known), count - len(fresh)))
        bar.advance(count)
    shuffled = list(itertools.chain.from_iterable(train.values())), alignment
    for name, drawn_set in zip(("order", "alignment order"), shuffled, strict=True):
        Random(derive_seed(config.seed, name)).shuffle(drawn_set)
    return shuffled


def _quotas(config: ConversationsConfig, total: int) -> Iterator[tuple[str, str, int]]:
    """How many conversations of each skill and language; together exactly `total`."""
    done, reached = 0, 0.0
    for (skill, share), language in itertools.product(config.shares.items(), LANGUAGES):
        reached += share * total / len(LANGUAGES)
        # Rounding the running sum, not each part, keeps the total exact.
        count = round(reached) - done
        done += count
        yield skill, language, count


def _test_set(config: ConversationsConfig, name: str, words: Draw, training: Draw) -> list[Drawn]:
    """Half of each skill's test conversations in each language, fewer where a skill has not so many."""
    unseen = name == "unseen"

    def good(drawn: Drawn) -> bool:
        return unseen or _kept_for_test(drawn.keys[-1], config.seed)

    test: list[Drawn] = []
    prompts: set[tuple[Message, ...]] = set()
    for skill, (number, language) in itertools.product(UNSEEN_SKILLS if unseen else SKILLS, enumerate(LANGUAGES)):
        source = Random(derive_seed(config.seed, name, skill, language))
        count = (config.test_per_skill + 1 - number) // 2
        draw = partial(_draw, source, skill, language, words, training, config)
        test += _distinct(draw, good, count, prompts)
    return [_renamed(drawn) for drawn in test] if unseen else test


def _renamed(drawn: Drawn) -> Drawn:
    known = drawn.conversation
    return Drawn(Conversation(known.messages, f"{known.skill}_unseen", known.language, known.check), drawn.keys)


def _spells(conversation: Conversation, hidden: set[str]) -> bool:
    """Whether any text of the conversation contains an unseen word."""
    return any(not hidden.isdisjoint(contained_strings(message.content)) for message in conversation.messages)


def _assert_apart(train: list[Drawn], alignment: list[Drawn], tests: list[Drawn], hidden: set[str]) -> None:
    """No leak: neither a prompt, nor a checked combination, nor an unseen word of the tests stands in training."""
    prompts = {drawn.conversation.prompt for drawn in train}
    assert len(prompts) == len(train), "two training conversations have the same prompt"
    prompts |= {drawn.conversation.prompt for drawn in alignment}
    keys = {key for drawn in train + alignment for key in drawn.keys}
    for drawn in tests:
        assert drawn.conversation.prompt not in prompts, f"a test prompt is trained on: {drawn.conversation.prompt}"
        assert drawn.keys[-1] not in keys, f"a test combination is trained on: {drawn.keys[-1]}"
    assert not any(_spells(drawn.conversation, hidden) for drawn in train + alignment), "training spells an unseen word"


def _write_lines(path: Path, drawn: list[Drawn]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for item in drawn:
            stream.write(json.dumps(item.conversation.to_json(), ensure_ascii=False) + "\n")
