"""Replies by people, good and bad: the good have no flaw, each bad one has the flaw it was written for."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.reply_check import MESSAGES_FILE, read_messages
from moodq_config.tasks import GenerateTask, Lang, load_tasks
from moodq_worker.quality.reply_measures import Flaw, flaws

ZH = "我的包裹已经等了整整三天还没有送到！"
EN = "My parcel is three days late and nobody will tell me where it is!"

GOOD = [
    ("zh", ZH, "等了三天还没收到，一定很着急，非常抱歉。请把订单号发给我们，方便客服查询包裹现在到了哪里。"),
    ("zh", "账户被盗了怎么办？", "遇到这种事一定很慌，请先别着急。请马上修改密码，并联系官方客服冻结账户。"),
    ("zh", "你们的 App 一更新就闪退", "更新后总是闪退，确实很让人恼火。您可以试试重新安装 App。"),
    ("zh", "没考上研究生。", "努力了这么久，心里一定很难过。不妨先好好休息几天，再慢慢想下一步。"),
    ("en", EN, "I'm so sorry, three days of waiting is frustrating. Please send us your order number so that "
     "the team can look for the parcel."),
    ("en", "I can't log in.", "I'm sorry, that is annoying. Please try \"Forgot password\" first."),
    ("en", "I failed my test.", "I'm sorry, that hurts. Be kind to yourself today, then look at one topic."),
    ("en", "Thank you!", "Thank you for telling us, that makes our day! Enjoy your headphones."),
]  # fmt: skip

BAD = [
    ("zh", Flaw.REFUSAL, "很抱歉，我无法协助完成这个请求。"),
    ("zh", Flaw.REFUSAL, "抱歉，作为一个AI语言模型，这个问题请您咨询专业人士。"),
    ("en", Flaw.REFUSAL, "I'm sorry, but I can't assist with that request."),
    ("en", Flaw.REFUSAL, "As an AI language model, I do not have feelings about parcels."),
    ("zh", Flaw.REFUSAL, "Sorry, I cannot help with that."),
    ("zh", Flaw.LANGUAGE, "I'm sorry to hear that. Please send us your order number."),
    ("en", Flaw.LANGUAGE, "非常抱歉给您带来不便，请把订单号发给我们。"),
    ("en", Flaw.LANGUAGE, "I'm sorry to hear that. 请把订单号发给我们。"),
    ("zh", Flaw.PROMISE, "非常抱歉，我们会立即为您退款，请您放心。"),
    ("zh", Flaw.PROMISE, "非常抱歉给您添麻烦，包裹24小时内就能送到您手上。"),
    ("zh", Flaw.PROMISE, "非常抱歉，我已经为您安排重新配送了。"),
    ("zh", Flaw.PROMISE, "非常抱歉，我们将赠送您一张优惠券作为补偿。"),
    ("zh", Flaw.PROMISE, "非常抱歉，我们保证以后再也不会发生。"),
    ("en", Flaw.PROMISE, "I'm so sorry. We will refund the full price of your order."),
    ("en", Flaw.PROMISE, "I'm so sorry. Your parcel will arrive by tomorrow morning."),
    ("en", Flaw.PROMISE, "I'm so sorry. I have already forwarded this to the courier."),
    ("en", Flaw.PROMISE, "I'm so sorry. Somebody calls you within 24 hours about it."),
    ("en", Flaw.PROMISE, "I'm so sorry. You'll receive a replacement for this parcel."),
    ("zh", Flaw.INVENTED, "非常抱歉给您添麻烦，请拨打客服热线4008123123查询。"),
    ("en", Flaw.INVENTED, "I'm so sorry. Please write to help@example.com about it."),
    ("en", Flaw.INVENTED, "I'm so sorry about order [order number], please tell us more."),
    ("en", Flaw.INVENTED, "I'm sorry about the wait. Express delivery costs $10."),
    ("zh", Flaw.LENGTH, "好的。"),
    ("en", Flaw.LENGTH, "Sorry. " * 5),
    ("en", Flaw.LENGTH, "I see what you mean and " * 25 + "that is it."),
    ("zh", Flaw.REPETITION, "非常抱歉给您带来了不便，我们真的非常抱歉给您带来了不便。"),
    ("en", Flaw.REPETITION, "I'm sorry, your parcel is three days late and nobody will tell me where it is!"),
    ("en", Flaw.REPETITION, "I'm sorry to hear about your parcel, I'm sorry to hear about your parcel."),
    ("zh", Flaw.REPETITION, f"您说：{ZH}请把订单号发给我们。"),
    ("zh", Flaw.UNFINISHED, "等了三天还没收到，一定很着急，请把订单号发给"),
    ("en", Flaw.UNFINISHED, "I'm so sorry about the wait. Please send us your order"),
]


@pytest.mark.parametrize(("lang", "message", "reply"), GOOD)
def test_a_good_reply_has_no_flaw(lang: Lang, message: str, reply: str) -> None:
    assert flaws(message, reply, lang) == {}


@pytest.mark.parametrize(("lang", "flaw", "reply"), BAD)
def test_a_bad_reply_has_the_flaw_it_was_written_for(lang: Lang, flaw: Flaw, reply: str) -> None:
    assert flaw in flaws(ZH if lang == "zh" else EN, reply, lang)


@pytest.mark.parametrize(
    ("lang", "question", "reply"),
    [
        ("zh", "可以带宠物入住吗？", "当然可以，欢迎您和宠物一起来住。"),
        ("zh", "会员积分会过期吗？", "会员积分会过期，请尽快使用您的积分。"),
        ("en", "Are dogs allowed in the rooms?", "Yes, dogs are allowed in all of our rooms."),
    ],
)
def test_yes_or_no_to_a_question_about_the_company_is_invented(lang: Lang, question: str, reply: str) -> None:
    assert Flaw.INVENTED in flaws(question, reply, lang)


def test_what_the_message_names_is_not_invented() -> None:
    assert Flaw.INVENTED not in flaws("Where is 20011?", "Sorry! We look for order 20011 together.", "en")


def test_a_reply_that_the_limit_of_tokens_ended_is_unfinished() -> None:
    reply = "I'm so sorry about the wait. Please send us your order number."
    assert flaws(EN, reply, "en", finish_reason="length").keys() == {Flaw.UNFINISHED}


def shipped() -> GenerateTask:
    task = load_tasks()["reply"]
    assert isinstance(task, GenerateTask)
    return task


def test_the_check_set_is_a_hundred_messages_half_in_each_language() -> None:
    messages = read_messages(MESSAGES_FILE)
    assert Counter(message.lang for message in messages) == {"zh": 50, "en": 50}
    assert len({message.text for message in messages}) == 100


def test_no_message_of_the_check_set_is_an_example_of_the_prompt() -> None:
    """The prompt is judged by messages it has not been told the answer to."""
    shown = {example.text for prompt in shipped().prompt.values() for example in prompt.examples}
    assert shown.isdisjoint(message.text for message in read_messages(MESSAGES_FILE))


def test_the_shipped_examples_have_no_flaw() -> None:
    for lang, prompt in shipped().prompt.items():
        for example in prompt.examples:
            assert flaws(example.text, example.reply, lang) == {}, example.reply
