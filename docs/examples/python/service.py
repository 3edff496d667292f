"""The same in an event loop, as a web service would: python service.py

Needs `pip install moodq`, and `moodq up` or MOODQ_REDIS_URL.
"""

import asyncio

from moodq_producer import AsyncClient, BadInput, LabelScores, QueueFull, Unavailable


async def handle(client: AsyncClient, text: str) -> str:
    """What one request does; hundreds of them wait at once over one connection."""
    try:
        ticket = await client.submit(text, ["sentiment"])
        result = await ticket.wait(timeout=60)
    except BadInput as error:
        return f"400 {error.code}"
    except (QueueFull, Unavailable) as error:
        return f"503 {error.code}"
    return f"200 {result.answer('sentiment', LabelScores).label}"


async def main() -> None:
    async with AsyncClient() as client:
        orders = [f"order {number} is here" for number in range(50)]
        texts = ["太棒了！", "My parcel arrived broken.", "", *orders]
        answers = await asyncio.gather(*(handle(client, text) for text in texts))
        for text, answer in list(zip(texts, answers, strict=True))[:4]:
            print(answer, text)

        ticket = await client.submit("等了两个小时还没到，差评", ["sentiment", "reply"])
        async for event in ticket.stream(timeout=60):
            if event.kind == "token":
                print(event.text, end="", flush=True)
        print()

        reviews = client.submit_many((f"review {number}: fine" for number in range(250)), ["sentiment"])
        done = [result.id async for _, result in client.as_completed(reviews, timeout=60)]
        print(len(done), "reviews")


if __name__ == "__main__":
    asyncio.run(main())
