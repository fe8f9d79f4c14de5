"""The skills of the demo's conversations: what a small model can learn and a program can check (issue 3, stage 5)."""

from danlu.conversations.skills.arithmetic import addition, counting
from danlu.conversations.skills.copying import copy_one, copy_several
from danlu.conversations.skills.exchange import DrawScene
from danlu.conversations.skills.greetings import greetings
from danlu.conversations.skills.questions import questions
from danlu.conversations.skills.reply_language import reply_language
from danlu.conversations.skills.safety import harmful, harmless

SKILLS: dict[str, DrawScene] = {
    "greetings": greetings,
    "reply_language": reply_language,
    "copy_one": copy_one,
    "copy_several": copy_several,
    "counting": counting,
    "addition": addition,
    "questions": questions,
    "harmful": harmful,
    "harmless": harmless,
}

UNSEEN_SKILLS = ("copy_one", "copy_several", "questions")
"""The skills that are also tested on words never seen in fine-tuning; their names there end in `_unseen`."""
