"""uvicorn in a test: it ends as soon as it can when it is told to, not some tenths of a second later."""

from __future__ import annotations

import asyncio
import socket

import uvicorn


class Prompt(uvicorn.Server):
    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(20):
            if not self.server_state.connections and not self.server_state.tasks:
                break
            await asyncio.sleep(0.005)
        else:
            return await super().shutdown(sockets)
        for one in sockets or []:
            one.close()
        if not self.force_exit:
            await self.lifespan.shutdown()
        return None
