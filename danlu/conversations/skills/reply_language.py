"""The language of the reply: the user writes one language and asks for a reply in the same or the other.

Two forms: a word to be said in the other language, and a small fact asked in one language to be answered in either.
"""

from random import Random

from danlu.conversations.skills.exchange import Exchange, Scene, WordDraw, word_list

# Chinese and English of the same thing.
PAIRS = tuple(
    tuple(pair.split("=", 1))
    for pair in word_list(
        "一=one 二=two 三=three 四=four 五=five 六=six 七=seven 八=eight 九=nine 十=ten 红色=red 黄色=yellow "
        "蓝色=blue 绿色=green 白色=white 黑色=black 紫色=purple 棕色=brown 灰色=grey 粉色=pink 星期一=Monday "
        "星期二=Tuesday 星期三=Wednesday 星期四=Thursday 星期五=Friday 星期六=Saturday 星期天=Sunday "
        "一月=January 二月=February 三月=March 四月=April 五月=May 六月=June 七月=July 八月=August "
        "九月=September 十月=October 猫=cat 狗=dog 马=horse 牛=cow 羊=sheep 鸟=bird 鱼=fish 鸡=chicken 猪=pig "
        "老虎=tiger 狮子=lion 大象=elephant 兔子=rabbit 苹果=apple 香蕉=banana 橙子=orange 葡萄=grape "
        "桃子=peach 西瓜=watermelon 水=water 茶=tea 牛奶=milk 面包=bread 米饭=rice 鸡蛋=egg 盐=salt 糖=sugar "
        "太阳=sun 月亮=moon 星星=star 天空=sky 海=sea 山=mountain 河=river 火=fire 雨=rain 雪=snow 风=wind "
        "树=tree 花=flower 草=grass 书=book 笔=pen 纸=paper 门=door 窗户=window 桌子=table 椅子=chair 床=bed "
        "房子=house 学校=school 医院=hospital 火车=train 飞机=plane 汽车=car 船=ship 老师=teacher "
        "学生=student 医生=doctor 朋友=friend 母亲=mother 父亲=father 早上=morning 晚上=evening 今天=today "
        "明天=tomorrow 昨天=yesterday 春天=spring 夏天=summer 秋天=autumn 冬天=winter 大=big 小=small 热=hot "
        "冷=cold 新=new 旧=old 快=fast 慢=slow 高兴=happy 难过=sad 是=yes 不=no 你好=hello 再见=goodbye "
        "谢谢=thanks 中国=China 英国=England 法国=France"
    )
)

SAY_IN = {
    # The language that the user writes, the one that the reply must have: templates.
    ("zh", "en"): ("请用英文说：{}", "“{}”用英语怎么说？", "用英文回答：{}", "把“{}”译成英文。", "{}的英文是什么？"),
    ("en", "zh"): (
        "Say in Chinese: {}",
        'How do you say "{}" in Chinese?',
        "Translate into Chinese: {}",
        "What is {} in Chinese?",
        "Please answer in Chinese: {}",
    ),
    ("en", "en"): (
        "Say in English: {}",
        'How do you say "{}" in English?',
        "Translate into English: {}",
        "What is {} in English?",
        "Please answer in English: {}",
    ),
    ("zh", "zh"): ("请用中文说：{}", "“{}”用中文怎么说？", "用中文回答：{}", "把“{}”译成中文。", "{}的中文是什么？"),
}

AND_THIS = {"zh": ("那{}呢？", "{}呢？"), "en": ("And {}?", "What about {}?")}

# A fact: the question in Chinese and English, the answer in Chinese and English.
FACTS = (
    ("雪是什么颜色", "What colour is snow", "白色。", "White."),
    ("草是什么颜色", "What colour is grass", "绿色。", "Green."),
    ("煤是什么颜色", "What colour is coal", "黑色。", "Black."),
    ("血是什么颜色", "What colour is blood", "红色。", "Red."),
    ("香蕉是什么颜色", "What colour is a banana", "黄色。", "Yellow."),
    ("晴天的天空是什么颜色", "What colour is the clear sky", "蓝色。", "Blue."),
    ("猫有几条腿", "How many legs has a cat", "四条。", "Four."),
    ("鸟有几条腿", "How many legs has a bird", "两条。", "Two."),
    ("蜘蛛有几条腿", "How many legs has a spider", "八条。", "Eight."),
    ("一周有几天", "How many days are in a week", "七天。", "Seven days."),
    ("一年有几个月", "How many months are in a year", "十二个月。", "Twelve months."),
    ("一天有几个小时", "How many hours are in a day", "二十四小时。", "Twenty-four hours."),
    ("星期一后面是哪天", "Which day comes after Monday", "星期二。", "Tuesday."),
    ("星期五后面是哪天", "Which day comes after Friday", "星期六。", "Saturday."),
    ("冬天后面是什么季节", "Which season comes after winter", "春天。", "Spring."),
    ("太阳从哪边升起", "Where does the sun rise", "东边。", "In the east."),
    ("太阳从哪边落下", "Where does the sun set", "西边。", "In the west."),
    ("中国的首都在哪里", "What is the capital of China", "北京。", "Beijing."),
    ("法国的首都在哪里", "What is the capital of France", "巴黎。", "Paris."),
    ("英国的首都在哪里", "What is the capital of England", "伦敦。", "London."),
    ("大的反义词是什么", "What is the opposite of big", "小。", "Small."),
    ("热的反义词是什么", "What is the opposite of hot", "冷。", "Cold."),
    ("鱼住在哪里", "Where do fish live", "水里。", "In water."),
    ("晚上天上有什么", "What is in the sky at night", "月亮和星星。", "The moon and stars."),
    ("怎么打招呼", "How do you greet people", "你好！", "Hello!"),
    ("怎么道别", "How do you say goodbye", "再见！", "Goodbye!"),
    ("怎么道谢", "How do you thank someone", "谢谢！", "Thank you!"),
    ("你叫什么名字", "What is your name", "我叫丹炉。", "My name is Danlu."),
)

# The language that the user writes, the one that the reply must have: around a question without its mark.
ASK_IN = {
    ("zh", "zh"): ("请用中文回答：{}？", "{}？请说中文。", "用中文告诉我，{}？", "{}？（中文）"),
    ("zh", "en"): ("请用英文回答：{}？", "{}？请说英文。", "用英文告诉我，{}？", "{}？（英文）"),
    ("en", "en"): ("Answer in English: {}?", "{}? Please use English.", "In English: {}?", "{}? (in English)"),
    ("en", "zh"): ("Answer in Chinese: {}?", "{}? Please use Chinese.", "In Chinese: {}?", "{}? (in Chinese)"),
}

FACT_SHARE = 0.4
"""Part of the scenes that ask a fact instead of a word. Our choice."""

SECOND_WORD_SHARE = 0.2
"""Part of the word scenes that go on with "and this one?". Our choice."""


def reply_language(source: Random, language: str, words: WordDraw) -> Scene:
    """`language` is the one that the user writes."""
    wanted = source.choice(("zh", "en"))
    if source.random() < FACT_SHARE:
        return [_fact(source, language, wanted)]
    first, second = source.sample(PAIRS, 2)
    template = source.choice(SAY_IN[language, wanted])
    scene = [_word(template, first, wanted)]
    if source.random() < SECOND_WORD_SHARE:
        # The wish of the first turn stands for the second one too.
        following = _word(source.choice(AND_THIS[language]), second, wanted)
        whole = f"{scene[0].user}\n{following.user}"
        scene = [scene[0], Exchange(following.user, following.reply, following.check, key=whole)]
    return scene


def _word(template: str, pair: tuple[str, ...], wanted: str) -> Exchange:
    chinese, english = pair
    given, answer = (chinese, english) if wanted == "en" else (english, chinese)
    user = template.format(given)
    return Exchange(user, answer, {"kind": "language", "language": wanted, "answer": answer}, key=user)


def _fact(source: Random, language: str, wanted: str) -> Exchange:
    chinese, english, answer_zh, answer_en = source.choice(FACTS)
    user = source.choice(ASK_IN[language, wanted]).format(chinese if language == "zh" else english)
    answer = answer_zh if wanted == "zh" else answer_en
    return Exchange(user, answer, {"kind": "language", "language": wanted, "answer": answer}, key=user)
