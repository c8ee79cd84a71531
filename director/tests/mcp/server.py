#!/usr/bin/env python3
"""An MCP server on loopback that says who it is and how often a session asked it.

Prints its port when it listens, and ends after --seconds at the latest.
"""

import argparse
import asyncio
import contextlib
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings


def application(name: str):
    server = MCPServer(name)
    calls: dict[str, int] = {}

    @server.tool()
    def whoami(ctx: Context) -> dict[str, str | int]:
        """The server's name, and how often this session has asked for it."""
        request = ctx.request_context.request
        session = request.headers.get("mcp-session-id", "") if request else ""
        calls[session] = calls.get(session, 0) + 1
        return {"server": name, "session": session, "calls": calls[session]}

    # The Host that a proxy sends is the proxy's affair.
    anyone = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return server.streamable_http_app(transport_security=anyone)


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--address", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0, help="0: any that is free")
    arguments.add_argument("--seconds", type=float, default=120)
    asked = arguments.parse_args()

    listening = socket.create_server((asked.address, asked.port), backlog=128)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        application(asked.name), log_level="warning", timeout_graceful_shutdown=1
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(asked.seconds):
            await uvicorn.Server(config).serve(sockets=[listening])


asyncio.run(main())
