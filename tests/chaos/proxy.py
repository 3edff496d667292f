"""A proxy that cuts every connection after a random number of bytes: in the middle of a command, of a
pipeline, or of an answer to what the server has already done."""

from __future__ import annotations

import asyncio
import random
import threading


class CuttingProxy:
    """Lives in a thread. While ``cutting``, a connection ends after some bytes up to ``most_bytes``."""

    def __init__(self, port: int, most_bytes: int = 20_000) -> None:
        self._target = port
        self._most_bytes = most_bytes
        self.cutting = False
        self.cuts = 0
        self.port = 0
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        server.close()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        left = [random.randint(1, self._most_bytes)]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                left[0] -= len(data)
                if self.cutting and left[0] < 0:
                    self.cuts += 1
                    sink.write(data[: max(0, len(data) + left[0])])
                    return
                sink.write(data)
                await sink.drain()

        pumps = [asyncio.create_task(pump(reader, far_writer)), asyncio.create_task(pump(far_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            far_writer.close()
