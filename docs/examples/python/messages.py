"""Customer messages, one at a time and many at once: python messages.py

Needs `pip install moodq`, and `moodq up` or MOODQ_REDIS_URL.
"""

from moodq_producer import Client, GeneratedText, ItemFailed, LabelScores

MESSAGES = ["今天的实验终于成功了，太棒了！", "My order is late again.", "谢谢，已经收到了", "   "]


def main() -> None:
    with Client() as client:
        # Somebody waits: the label comes first, then the reply as it is written.
        ticket = client.submit(MESSAGES[0], ["sentiment", "reply"])
        for event in ticket.stream(timeout=60):
            if isinstance(found := event.labels.get("sentiment"), LabelScores):
                print("label:", found.label)
            elif event.kind == "token":
                print(event.text, end="", flush=True)
        print()

        # The same message again, whole. The id makes it safe to send twice.
        result = client.submit(MESSAGES[0], ["sentiment", "reply"], id="message-1").wait(timeout=60)
        label = result.answer("sentiment", LabelScores)
        print(f"{label.label} {label.probability:.2f}:", result.answer("reply", GeneratedText).text)

        # Nobody waits: many in one job, each with a result of its own, in the order in which they are done.
        rows = [{"text": text, "metadata": {"row": row}} for row, text in enumerate(MESSAGES) if text.strip()]
        for _, result in client.as_completed(client.submit_many(rows, ["sentiment"]), timeout=60):
            row = (result.metadata or {})["row"]
            try:
                print(row, result.answer("sentiment", LabelScores).label)
            except ItemFailed as error:
                print(row, error.code)

        # What is not wanted any more. False: it had ended before.
        print("cancelled:", client.submit("No need to answer", ["reply"]).cancel())


if __name__ == "__main__":
    main()
