"""A TCP proxy that adds delay: it simulates distant hosts on one machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    """Forwards each piece `delay` seconds after it arrived; pieces do not delay each other."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def receive() -> None:
        while piece := await source.read(65536):
            pieces.put_nowait((loop.time() + delay, piece))
        pieces.put_nowait((loop.time() + delay, b""))

    receiving = asyncio.create_task(receive())
    try:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            sink.write(piece)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        receiving.cancel()
        sink.close()


async def _serve(
    ports: Sequence[int], delay: float, ready: list[int], begun: threading.Event, end: asyncio.Event
) -> None:
    servers = []
    for port in ports:

        async def connect(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port
        ) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, far_writer, delay), _pump(far_reader, writer, delay))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        servers.append(server)
        ready.append(server.sockets[0].getsockname()[1])
    begun.set()
    await end.wait()
    for server in servers:
        server.close()


@contextmanager
def delayed(ports: Sequence[int], delay: float) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that forward to `ports`, with `delay` seconds each way."""
    loop = asyncio.new_event_loop()
    end, begun, ready = asyncio.Event(), threading.Event(), list[int]()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(_serve(ports, delay, ready, begun, end),), daemon=True
    )
    thread.start()
    begun.wait()
    try:
        yield ready
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(5)
