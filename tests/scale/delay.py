"""``python -m tests.scale.delay HOST PORT MS``: a server that is a round trip of MS milliseconds away.

Listens on port 6379 of its namespace's loopback and passes on to HOST:PORT, each way half of MS later, in
order and without limit of speed. It stands in for netem where the kernel has none.
"""

from __future__ import annotations

import asyncio
import sys

PORT = 6379
CHUNK = 1 << 18


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(CHUNK):
            loop.call_later(delay_s, writer.write, data)
    except ConnectionError:
        pass
    finally:
        loop.call_later(delay_s, writer.close)


async def serve(host: str, port: int, round_trip_ms: float) -> None:
    """Until cancelled."""
    delay_s = round_trip_ms / 2000

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_pump(reader, far_writer, delay_s), _pump(far_reader, writer, delay_s))

    server = await asyncio.start_server(connect, "127.0.0.1", PORT)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
