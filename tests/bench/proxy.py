"""A proxy before the server that counts, and if asked delays: Redis a network away.

Runs in a process of its own (``Child``). A round trip is a change of direction: something was sent to the
server after the server had last spoken. A script counts as one command. Bytes arrive ``delay_s`` after they
were sent, either way, in order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import hiredis


class Proxy:
    """Lives in the child process; its event loop runs in a thread."""

    def __init__(self, port: int, round_trip_ms: float) -> None:
        self._target = port
        self._delay_s = round_trip_ms / 2000
        self._seen: Counter[str] = Counter()
        self._port = 0
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def port(self) -> int:
        return self._port

    def take(self) -> dict[str, int]:
        """``commands``, ``round_trips``, ``sent`` and ``received`` bytes since the last call."""
        seen, self._seen = self._seen, Counter()
        return {name: seen[name] for name in ("commands", "round_trips", "sent", "received")}

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
            self._port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        state = {"asked": False}
        requests = hiredis.Reader()  # what is sent is in the form of an answer: arrays of strings

        def sent(data: bytes) -> None:
            if not state["asked"]:
                self._seen["round_trips"] += 1
            state["asked"] = True
            self._seen["sent"] += len(data)
            requests.feed(data)
            while requests.gets() is not False:
                self._seen["commands"] += 1

        def received(data: bytes) -> None:
            state["asked"] = False
            self._seen["received"] += len(data)

        await asyncio.gather(self._pump(reader, far_writer, sent), self._pump(far_reader, writer, received))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: object) -> None:
        assert callable(count)
        try:
            while data := await reader.read(1 << 18):
                count(data)
                if self._delay_s:
                    self._loop.call_later(self._delay_s, writer.write, data)
                else:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._loop.call_later(self._delay_s, writer.close)
