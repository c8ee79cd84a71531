#!/usr/bin/env python3
"""An MCP client that asks `whoami` again and again, one line of JSON for each answer:

    {"server": "dc01-a", "session": "<the server's own id>", "calls": 2, "initialised": 1}

`initialised` says how many times it has begun a session. The SDK does not begin a
new one by itself when the server answers 404 to a session: it raises an error, and
whoever uses it opens a new client, as this does.

With --step it asks once for each line of its input, so that a test can do something
in between.
"""

import argparse
import asyncio
import json
import sys

from mcp import Client, MCPError


async def step(wait: bool) -> bool:
    """Whether to go on."""
    if not wait:
        return True
    return bool(await asyncio.to_thread(sys.stdin.readline))


async def run(url: str, mode: str, calls: int, wait: bool) -> None:
    initialised = failed = done = 0
    go_on = await step(wait)
    while go_on and done < calls:
        async with Client(url, mode=mode, read_timeout_seconds=10) as client:
            initialised += 1
            while go_on and done < calls:
                try:
                    result = await client.call_tool("whoami", {})
                except MCPError as error:
                    print(f"{error.error.code}: {error.error.message}", file=sys.stderr)
                    failed += 1
                    if failed > 5:
                        raise
                    break
                failed = 0
                done += 1
                answer = json.loads(result.content[0].text)
                print(json.dumps({**answer, "initialised": initialised}), flush=True)
                if done < calls:
                    go_on = await step(wait)


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", help="as in http://127.0.0.1:8080/mcp")
    arguments.add_argument("--calls", type=int, default=1)
    arguments.add_argument(
        "--mode",
        default="legacy",
        help="legacy: sessions, up to revision 2025-11-25; auto: the newest",
    )
    arguments.add_argument("--step", action="store_true")
    arguments.add_argument("--seconds", type=float, default=60)
    asked = arguments.parse_args()
    async with asyncio.timeout(asked.seconds):
        await run(asked.url, asked.mode, asked.calls, asked.step)


asyncio.run(main())
