"""asyncio: the same names, awaited. Handlers may be `async def`."""

import asyncio

from peerfabric import AsyncNode


async def main() -> None:
    async with AsyncNode("asker") as asker, AsyncNode("doubler") as doubler:
        results = doubler.producer("results", int)

        @doubler.on_message("numbers", concurrency=10)
        async def double(number: int) -> None:
            await asyncio.sleep(0.01)  # ten of these at a time
            await results.send(2 * number)

        numbers = asker.producer("numbers", int)
        await numbers.send_many(range(100))

        total = count = 0
        async for message in asker.consumer("results", int):
            with message as result:
                total += result
                count += 1
            if count == 100:
                break
        print("the sum is", total)


asyncio.run(main())
