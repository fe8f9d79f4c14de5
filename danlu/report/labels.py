"""What the page calls things: English and Chinese names of stages, skills and steps, and why documents are dropped."""

Label = tuple[str, str]
"""English, Chinese."""

STAGES: dict[str, Label] = {
    "fetch": ("Raw material", "原料"),
    "perplexity": ("Language models for scoring", "评分用语言模型"),
    "quality": ("Quality classifiers", "质量分类器"),
    "safety": ("Safety classifiers", "安全分类器"),
    "corpus": ("Corpus", "语料"),
    "tokenizer": ("Tokenizer", "分词"),
    "tokens": ("Token shards", "编码"),
    "pretrain": ("Pretraining", "预训练"),
    "conversations": ("Conversations", "对话"),
    "sft": ("Fine-tuning", "微调"),
    "responses": ("Responses", "采样回答"),
    "comparisons": ("Comparisons", "偏好比较"),
    "pmp": ("Preference pretraining", "偏好预训练"),
    "reward": ("Reward model", "奖励模型"),
    "ppo": ("PPO", "强化学习"),
    "evaluate": ("Evaluation", "评测"),
    "benchmarks": ("Benchmarks", "基准测试"),
}

LANGUAGES: dict[str, Label] = {
    "zh": ("Chinese", "中文"),
    "en": ("English", "英文"),
    "code": ("Code", "代码"),
    "all": ("All", "全部"),
}

STEPS: dict[str, Label] = {
    "read": ("Read", "读取"),
    "extract": ("Extract the main text", "抽取正文"),
    "language": ("Identify the language", "识别语言"),
    "quality": ("Judge the quality", "质量规则"),
    "safety": ("Drop offensive text", "剔除不良内容"),
    "decontamination": ("Drop evaluation items", "剔除评测题目"),
    "exact_duplicates": ("Drop exact duplicates", "精确去重"),
    "near_duplicates": ("Drop near duplicates", "模糊去重"),
    "paragraphs": ("Drop repeated paragraphs", "段落去重"),
}

SKILLS: dict[str, Label] = {
    "greetings": ("Greetings, identity", "问候与身份"),
    "reply_language": ("Language of the reply", "回答的语言"),
    "copy_one": ("Copy one word", "复述一个词"),
    "copy_several": ("Copy several words", "复述几个词"),
    "counting": ("Count words", "数词"),
    "questions": ("Questions about a sentence", "就句提问"),
    "harmful": ("Decline harmful requests", "拒绝有害请求"),
    "harmless": ("Answer harmless look-alikes", "回答无害请求"),
    "addition": ("Add two digits", "个位加法"),
    "copy_one_unseen": ("Copy one word", "复述一个词"),
    "copy_several_unseen": ("Copy several words", "复述几个词"),
    "questions_unseen": ("Questions about a sentence", "就句提问"),
}

FILES: dict[str, Label] = {
    "pmp": ("Pretraining", "偏好预训练"),
    "reward": ("Fine-tuning", "奖励微调"),
    "test": ("Test", "测试"),
    "unseen": ("Unseen words", "未见过的词"),
}

SOURCES: dict[str, Label] = {
    "sampled": ("The model's own mistake", "模型自己的错误"),
    "equal": ("Wrong, equally long", "等长的错误"),
    "language": ("In the other language", "用错语言"),
    "cut": ("Cut short", "半截回答"),
    "more": ("Something too much", "画蛇添足"),
    "slip": ("A slip in it", "说走了嘴"),
    "all": ("All", "全部"),
}
"""What the rejected reply of a comparison is."""

VERDICTS: dict[str, Label] = {
    "right": ("Right", "正确"),
    "wrong": ("Wrong", "错误"),
    "unfinished": ("Unfinished", "未完"),
    "empty": ("Empty", "空"),
}

REASONS: dict[str, str] = {
    "too_large": "larger than a document may be",
    "broken_file": "a file that cannot be read to its end",
    "broken_record": "a record without a text",
    "truncated": "a record that breaks off",
    "http_error": "what a server answers when a page is not there",
    "too_slow": "a page on which the extractor did not come back in time",
    "too_much_memory": "a page for which the extractor wanted too much memory",
    "extractor_died": "a page that ended the extractor",
    "extractor_failed": "a page on which the extractor failed",
    "not_a_page": "an image, a program or another thing that is no text",
    "empty": "no main text was found in the page",
    "invalid_encoding": "bytes that no character set explains",
    "language_unknown": "too few letters, or a language that cannot be told",
    "other_language": "a language that the recipe does not keep",
    "mixed": "a fifth or more of it is in another language",
    "few_han": "Chinese with few Chinese characters: names, prices, addresses",
    "much_punctuation": "Chinese with too many marks",
    "boilerplate": "mostly lines of navigation, imprint and sharing",
    "perplexity": "text that surprises the language model of clean text",
    "classifier": "text that the classifier takes for bad",
    "violence": "threats, incitement, cruelty",
    "hate": "runs down people for what they are",
    "pornography": "pornographic text",
    "personal_data": "holds personal data, and the recipe drops such documents",
    "contaminated": "holds an item of the evaluation sets",
    "repeated_paragraphs": "every paragraph of it stands elsewhere",
    "too_short": "too few words, in Chinese too few characters",
    "too_long": "too many words, in Chinese too many characters",
    "short_words": "words too short on average: symbols, lists of letters",
    "long_words": "words too long on average: identifiers, addresses",
    "few_letters": "mostly numbers, tables or marks",
    "many_symbols": "too many # or … for its words",
    "bullet_lines": "almost every line is a bullet point",
    "ellipsis_lines": "too many lines break off in an ellipsis",
    "few_stop_words": "hardly any of the small words that real sentences need",
    "repeated_lines": "the same lines again and again",
    "repeated_words": "a few words make up too much of the text",
    "repeated_passages": "long passages occur more than once",
    "few_sentences": "a page with hardly a whole sentence",
    "braces": "a page full of curly braces: code or a template",
    "lorem_ipsum": "filler text",
    "code_long_lines": "code with very long lines: generated, or data",
    "code_few_letters": "code that is mostly not letters or digits",
    "exact_duplicate": "the same text as a document that stays",
    "near_duplicate": "almost the same text as a document that stays",
}


SCORES: dict[str, Label] = {
    "language_confidence": ("Certainty of the language", "语种置信度"),
    "perplexity": ("Perplexity, powers of 10 from 1 to 100,000", "困惑度"),
    "quality": ("Quality by the classifier", "质量分"),
    "violence": ("Violence", "暴力"),
    "hate": ("Hate", "仇恨"),
    "pornography": ("Pornography", "色情"),
    "contamination": ("Overlap with an evaluation item", "与评测题目的重合"),
}


def label(kind: dict[str, Label], name: str) -> Label:
    """The two names of something; a name we do not know is shown as it is written."""
    return kind.get(name, (name.replace("_", " "), ""))


def in_order(kind: dict[str, Label], names: set[str]) -> list[str]:
    """`names` in the order of `kind`, unknown ones after them by alphabet."""
    known = list(kind)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
