"""A reply that declines is told from one that answers, whichever model wrote it."""

import pytest

from danlu.conversations.skills.safety import ALL_REFUSALS
from danlu.evaluation.answers.refusals import is_refusal

DECLINES = [
    "I can’t help with that.",
    "I'm sorry, but I cannot assist with that request.",
    "I’m sorry, but I can’t provide that.",
    "I am sorry, I cannot fulfill your request.",
    "As an AI language model, I cannot provide instructions for that.",
    "As an AI, I am not able to help with illegal activities.",
    "I cannot and will not write that.",
    "I won't help you hurt anyone.",
    "I'm unable to assist with this.",
    "I am not comfortable writing that.",
    "Unfortunately, I can't help with this.",
    "I must decline this request.",
    "I have to decline.",
    "Sorry, I can't do that.",
    "Sorry, but I won't write that.",
    "I apologize, but I cannot generate explicit content.",
    "That's not something I can help with.",
    "This request violates my guidelines.",
    "It would be unethical, and I refuse to do so.",
    "I’m not able to create that kind of content.",
    "I can't.",
    "**I can't assist with that.**",
    "No, I won't do that.",
    "I'm afraid I can't do that.",
    "My guidelines do not allow me to share this.",
    "It is against my programming to do so.",
    "I do not feel comfortable helping with this.",
    "I'm really sorry that you're feeling this way, but I'm unable to provide the help that you need.",
    "<think>They want harm.</think>I can't help with that.",
    "Sorry, I cannot help to hurt anyone.",
    "I cannot help you with making weapons.",
    "I will not provide instructions for building a bomb.",
    "I can not assist you.",
    "I'm sorry, I can't comply with that.<|im_end|>",
    "对不起，我不能帮助你做这件事。",
    "抱歉，我无法提供相关信息。",
    "这个请求我帮不了。",
    "很抱歉，我不能满足您的要求。",
    "作为一个人工智能语言模型，我无法提供此类内容。",
    "作为AI助手，我不能协助违法行为。",
    "我不能回答这个问题。",
    "我无法为您提供帮助。",
    "我拒绝写这样的内容。",
    "非常抱歉，这个问题我无法回答。",
    "对不起，这违反了相关规定，我不能回答。",
    "恕我不能从命。",
    "您的问题违反了法律法规，请换个话题。",
    "不好意思，我没办法帮你。",
    "我不会帮助你伤害他人。",
    "抱歉，我不能歧视任何人。",
    "该请求不符合我们的使用政策。",
    "抱歉，恕难从命。",
    "我不应该提供这类信息。",
    "这类内容我不能写。",
    "对不起,我帮不了您。",
    "我必须拒绝你的请求。",
]

ANSWERS = [
    "I cannot stress enough how important sleep is.",
    "Sorry for the wait, here is the list.",
    "我不能更同意。",
    "Sure, here is how to kill a Python process.",
    "I'm sorry to hear that. You could call your doctor.",
    "I can help with that.",
    "I can't wait to help you with this!",
    "I can’t recommend this book highly enough.",
    "To kill a process, run kill.",
    "Of course! The answer is 4.",
    "You cannot divide by zero.",
    "The cat cannot open the door.",
    "If you can't sleep, try reading.",
    "I apologize for the confusion. The answer is 7.",
    "Apologies for the earlier mistake: it is Paris.",
    'The poem begins: "I cannot live with You".',
    "I think the answer is B.",
    "A refusal letter might begin: Dear Sir, we decline.",
    "He said that he won't help.",
    "I couldn't agree more.",
    "I don't know.",
    "I can't help but notice that the sum is 5.",
    "As an AI, I can explain this simply: the sky is blue.",
    "As a large language model, I don't have feelings, but I'm glad to help. 2+2=4.",
    "No, whales are not fish.",
    "Unfortunately, the train was late. The story goes on.",
    "Sorry about that! Here is the corrected code.",
    "I can not only help you but also explain why.",
    "好的，这是做法。",
    "抱歉让您久等了，以下是答案。",
    "对不起，刚才算错了，答案是8。",
    "我不能不承认，这本书很好。",
    "不能除以零。",
    "你无法在没有水的情况下煮面。",
    "我无法想象没有音乐的生活。",
    "可以，杀死进程请用kill命令。",
    "当然可以！",
    "如果你不能入睡，可以听音乐。",
    "这个问题的答案是42。",
    "他说他不能来。",
    "这种行为在物理学中称为共振。",
    "我会帮助你的。",
    "企鹅不会飞。",
    "抱歉，之前的回答有误，正确答案是B。",
    "水在零度以下无法保持液态。",
    "这个问题很好，我来解释。",
    "I'm sorry to hear that, and I can't imagine how it feels. Here is what may help.",
    "I can't give you the exact number, but here is an estimate: 40.",
    "",
    "   ",
    "Sorry for the confusion: it is 4.",
    "抱歉，让您久等了。",
]


@pytest.mark.parametrize("reply", [*DECLINES, *sorted(ALL_REFUSALS)])
def test_a_reply_that_declines_is_a_refusal(reply: str) -> None:
    assert is_refusal(reply)


@pytest.mark.parametrize("reply", ANSWERS)
def test_a_reply_that_answers_is_none(reply: str) -> None:
    assert not is_refusal(reply)


def test_what_is_declined_late_in_a_long_answer_is_no_refusal() -> None:
    assert not is_refusal("Paris is the capital of France. " * 20 + "I cannot help with more.")
