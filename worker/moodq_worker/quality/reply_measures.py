"""What can be said of a reply without a person: its language, refusals, promises, length and repetition.

Each measure is a list of phrases or a count, so that what it finds can be shown and disputed. They are for
comparing prompts and models on the same messages; whether a reply is kind and of use, a person must say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from moodq_config.tasks import Lang


class Flaw(StrEnum):
    """What may be wrong with a reply, worst first."""

    REFUSAL = "refusal"
    LANGUAGE = "language"
    PROMISE = "promise"
    INVENTED = "invented"
    LENGTH = "length"
    REPETITION = "repetition"
    UNFINISHED = "unfinished"


#: Characters of a reply: below it is no answer, above it is not read.
LENGTH_CHARS: Mapping[Lang, tuple[int, int]] = {"zh": (12, 160), "en": (30, 480)}
MAX_SENTENCES = 4
#: Share of a Chinese reply's letters that are ideographs; names of products and apps are the rest.
MIN_IDEOGRAPHS = 0.7
#: Words (en) or characters (zh) in a row that may stand in a reply once only.
REPEATED: Mapping[Lang, int] = {"zh": 9, "en": 6}
#: So many in a row of the message are an echo of it, not an answer.
ECHOED: Mapping[Lang, int] = {"zh": 12, "en": 8}

_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_SENTENCE_END = re.compile(r"[。！？.!?…]+[”’\"')）」』]*")
_FINISHED = re.compile(r"[。！？.!?…~～][”’\"')）」』]*\W*$")
_WORD = re.compile(r"[\w']+")


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_ABILITY_EN = (
    r"(?:help|assist|do|answer|provide|comply|"
    r"fulfil?l?|process|handle|respond|engage|discuss|access|complete)"
)
_REFUSAL: Mapping[Lang, re.Pattern[str]] = {
    "zh": _any(
        r"(?:无法|不能|没法|没有办法)(?:直接|再|继续|为您|为你|给您|给你|就此)*"
        r"(?:协助|帮助|帮到|帮您|帮你|回答|提供|满足|完成|处理|解答|回应|办理|执行|访问)",
        r"作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型|虚拟助手|智能助手|机器人)",
        r"我(?:只)?是(?:一个|一名|一款)?(?:AI|人工智能|语言模型|虚拟)",
        r"不在我的(?:能力|服务|职责)范围",
        r"超出了?我的(?:能力|服务|职责)",
    ),
    "en": _any(
        rf"\bI(?:'m| am)? ?(?:can't|cannot|can not|won't|unable to|not able to)\b"
        rf"(?: \w+){{0,2}}? {_ABILITY_EN}\b",
        r"\bas an? (?:AI|artificial|language model|virtual|automated)\b",
        r"\bI(?:'m| am) (?:just |only )?an? (?:AI|artificial|language model|bot|virtual)\b",
        r"\b(?:against|outside|beyond) (?:my|our) (?:guidelines|capabilities|abilities|scope)\b",
    ),
}

# What the company did not say: that something has been done, will be done, or by when.
_DONE_ZH = (
    r"(?:退款|退钱|退还|赔偿|赔付|补偿|补发|换新|换货|重发|重新(?:安排|配送|发货|寄送)|"
    r"升级|取消|处理|解决|安排)"
)
_DONE_EN = (
    r"(?:refund|reimburse|compensate|replace|resend|reship|credit|cancel|upgrade|waive|resolve|fix|solve|"
    r"deliver|arrange|schedule|remove|change|update|process|issue)"
)
_UNIT_EN = r"(?:seconds?|minutes?|hours?|days?|weeks?|business days?|working days?)"
_PROMISE: Mapping[Lang, re.Pattern[str]] = {
    "zh": _any(
        rf"(?:已经?|已为您|已帮您)(?:为您|帮您|给您|替您)?{_DONE_ZH}",
        r"(?:我们?|这边|客服)(?:将|会|马上|立即|立刻|尽快|现在|这就|一定)+"
        rf"(?:会|就|为|给|帮|替|您|你|全额|安排|办理|进行)*{_DONE_ZH}",
        r"(?:为|帮|给|替)您(?:办理|安排|申请|进行|全额)*(?:退款|退还|赔偿|赔付|补偿|补发|换新|换货|重发|升级|退票|改签)",
        r"(?:全额退款|免费(?:更换|换新|送|补|赠|升级|维修))",
        r"(?:送|赠送|补偿|发放)(?:您|给您)?(?:一张|一份|\d+\s*元)?"
        r"[^，。]{0,4}(?:优惠券|代金券|红包|礼品|小礼物)",
        r"(?:保证|承诺|确保)(?!.{0,6}(?:您的?账户|账户|安全))",
        r"\d+\s*(?:个)?(?:分钟|小时|天|工作日|周)(?:之?内|以内|后)",
        r"(?:今天|今晚|明天|明早|后天|本周|下周|一周)(?:之?内)?(?:就|内|一定|会|送达|到)",
        r"(?:一定|肯定|必定)(?:会|能|可以)?(?:解决|处理|送达|到账|没事|没问题)",
    ),
    "en": _any(
        rf"\b(?:I|we)(?:'ve| have)(?: already| just)? "
        rf"(?:{_DONE_EN}\w*|sent|forwarded|escalated|contacted|passed)\b",
        rf"\b(?:I|we)(?:'ll| will|'m going to|'re going to)(?: \w+ly| also| now| get it)? {_DONE_EN}\b",
        r"\b(?:I|we)(?:'ll| will)(?: \w+ly| also| now)? (?:send|give|offer|get) you (?:an? )?(?:\w+ )?"
        r"(?:refund|replacement|new|voucher|coupon|discount|credit|gift)",
        r"\b(?:full|free|complete) (?:refund|replacement|upgrade|repair|return)",
        r"\b(?:guarantee|promise|make sure (?:it|this) (?:never|does ?n['o]t))",
        rf"\b(?:within|in|after) (?:the next )?(?:\d+|a few|one|two|three|24|48)(?:[- ]\d+)? {_UNIT_EN}",
        r"\b(?:by|until) (?:tomorrow|tonight|monday|tuesday|wednesday|thursday|friday|the end of)",
        r"\b(?:you will|you'll) (?:receive|get|be (?:refunded|compensated|reimbursed))\b",
        r"\bwill (?:arrive|be (?:delivered|refunded|resolved|fixed|replaced|there))\b",
    ),
}

#: What no message holds unless the company has said it: addresses, placeholders, and numbers of any kind.
_INVENTED = _any(r"https?://\S+", r"www\.\S+", r"[\w.+-]+@[\w-]+\.\w+", r"\[[^\]]{2,40}\]", r"\d+")
#: To a question about the company, yes or no is an invention too: the model cannot know.
_VERDICT: Mapping[Lang, re.Pattern[str]] = {
    "zh": _any(
        r"^(?:是的|可以|当然|不可以|不能|没有|(?:能|会|有)的?[，。！])",
        r"^(?!您|我们|请|谢谢|非常)[^，。]{2,12}(?:可以|不能|会)",
    ),
    "en": _any(r"^(?:yes|no|sure|of course|certainly)\b"),
}


def flaws(message: str, reply: str, lang: Lang, *, finish_reason: str = "stop") -> dict[Flaw, str]:
    """What is wrong with ``reply`` to ``message``, which is in ``lang``; each flaw with the words that show
    it, or a count. Empty when nothing was found."""
    found: dict[Flaw, str] = {}
    if match := _REFUSAL[lang].search(reply) or _REFUSAL[_other(lang)].search(reply):
        found[Flaw.REFUSAL] = match[0]
    if not in_language(reply, lang):
        found[Flaw.LANGUAGE] = "not in the message's language"
    if match := _PROMISE[lang].search(reply):
        found[Flaw.PROMISE] = match[0]
    invented = [one for one in _INVENTED.findall(reply) if one not in message]
    if "?" in message or "？" in message:
        invented += _VERDICT[lang].findall(reply)
    if invented:
        found[Flaw.INVENTED] = invented[0]
    shortest, longest = LENGTH_CHARS[lang]
    sentences = len(_SENTENCE_END.findall(reply))
    if not shortest <= len(reply) <= longest or sentences > MAX_SENTENCES:
        found[Flaw.LENGTH] = f"{len(reply)} characters, {sentences} sentences"
    if repeated := _repeated(message, reply, lang):
        found[Flaw.REPETITION] = repeated
    if finish_reason == "length" or not _FINISHED.search(reply):
        found[Flaw.UNFINISHED] = reply[-12:]
    return found


def in_language(reply: str, lang: Lang) -> bool:
    """English has no ideographs at all; Chinese is made of them, but for a name here and there."""
    ideographs = len(_IDEOGRAPH.findall(reply))
    if lang == "en":
        return ideographs == 0 and any(map(str.isalpha, reply))
    return ideographs > 0 and ideographs >= MIN_IDEOGRAPHS * sum(map(str.isalpha, reply))


def _repeated(message: str, reply: str, lang: Lang) -> str:
    """The first words that the reply says twice, or that it only repeats of the message."""
    runs = Counter(_runs(reply, lang, REPEATED[lang]))
    echoed = set(_runs(message, lang, ECHOED[lang]))
    twice = (run for run, count in runs.items() if count > 1)
    return next(twice, next((run for run in _runs(reply, lang, ECHOED[lang]) if run in echoed), ""))


def _runs(text: str, lang: Lang, size: int) -> list[str]:
    """Every ``size`` ideographs (zh) or words (en) in a row."""
    units = _IDEOGRAPH.findall(text) if lang == "zh" else _WORD.findall(text.lower())
    joint = "" if lang == "zh" else " "
    return [joint.join(units[at : at + size]) for at in range(len(units) - size + 1)]


def _other(lang: Lang) -> Lang:
    return "en" if lang == "zh" else "zh"
