"""One gateway's hold on the shared limits: takes a little in advance, so that not every request writes.

Whatever a request reserves is first taken from the database by an atomic conditional statement, together with a small
lease (a hundredth of the limit) for the requests after it. Guarantees: what all gateways reserved and did not give back
never exceeds a limit. So a limit is overshot only by what requests under way cost above their reservation, which is
charged in full when they end. Not guaranteed: the last drop; a request may be refused while other gateways hold leases,
a hundredth of the limit each, or amounts reserved and not yet given back.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.serving.counters import Counter, Counters

logger = logging.getLogger(__name__)
LEASE_PART = 100


@dataclass
class Lease:
    """What a gateway holds of one limit: ``left`` was taken and is not used; ``used`` is what the database said."""

    counter: Counter
    left: int = 0
    used: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def size(self) -> int:
        """What is taken in advance."""
        return max(self.counter.limit // LEASE_PART, 1)

    @property
    def remaining(self) -> int:
        """What may still be used, as far as this gateway knows."""
        return max(self.counter.limit - self.used + self.left, 0)


class Spent(Exception):
    """A limit does not hold what a request needs."""

    def __init__(self, counter: Counter, amount: int) -> None:
        super().__init__(f"{counter.name} of {counter.subject}: {amount} are wanted, the limit is {counter.limit}")
        self.counter, self.amount = counter, amount


class Meter:
    """The leases of one gateway."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._leases: dict[tuple[str, str], Lease] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def reserve(self, amounts: Mapping[Counter, int]) -> None:
        """Reserve amounts of limits, all or none.

        Raises:
            Spent: one of the limits does not hold its amount.
        """
        held: dict[Counter, int] = {}
        try:
            for counter, amount in amounts.items():
                await self._reserve(counter, amount)
                held[counter] = amount
        except BaseException:  # a caller who went away holds nothing either
            self.give_back(held)
            raise

    def give_back(self, amounts: Mapping[Counter, int]) -> None:
        """Return amounts that were reserved and not used; negative ones are charged, whatever the limit."""
        for counter, amount in amounts.items():
            lease = self._leases.get((counter.subject, counter.name))
            if lease is None or lease.counter.period != counter.period:
                if amount < 0:  # of a period that is over: it is written down, nobody waits for it
                    self._later(asyncio.to_thread(self._counters.add, counter, -amount))
                continue
            lease.left += amount
            self._level(lease)

    def remaining(self, counter: Counter) -> int:
        """What may still be used of a limit, as far as this gateway knows."""
        return self._lease(counter).remaining

    async def flush(self) -> None:
        """Wait for everything that is being written."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def close(self) -> None:
        """Give all leases back."""
        await self.flush()
        for lease in self._leases.values():
            self._return(lease, lease.left)
        await self.flush()

    def end(self) -> None:
        """Give all leases back, when there is no loop any more."""
        for lease in self._leases.values():
            self._counters.add(lease.counter, -lease.left)
        self._leases.clear()

    def _lease(self, counter: Counter) -> Lease:
        """The lease of a limit; a new one when its period is over or the limit was changed."""
        key = (counter.subject, counter.name)
        lease = self._leases.get(key)
        if lease is None or lease.counter != counter:
            if lease is not None and lease.counter.period == counter.period:
                self._return(lease, lease.left)
            elif lease is not None:
                self._later(asyncio.to_thread(self._counters.forget, counter))
            lease = self._leases[key] = Lease(counter)
        return lease

    async def _reserve(self, counter: Counter, amount: int) -> None:
        lease = self._lease(counter)
        if lease.left < amount:
            async with lease.lock:
                while lease.left < amount and await asyncio.shield(self._later(self._refill(lease, amount))):
                    pass
        if lease.left < amount:
            raise Spent(counter, amount)
        lease.left -= amount

    async def _refill(self, lease: Lease, amount: int) -> int:
        """Take what is missing and a lease; runs to its end even when the request that waits for it is gone."""
        least = amount - lease.left
        taken = await asyncio.to_thread(self._counters.take, lease.counter, least=least, most=least + lease.size)
        lease.left, lease.used = lease.left + taken.amount, taken.used
        return taken.amount

    def _level(self, lease: Lease) -> None:
        """Write down a debt at once, and return what is more than two leases."""
        if lease.left < 0:
            self._return(lease, lease.left)
        elif lease.left > 2 * lease.size:
            self._return(lease, lease.left - lease.size)

    def _return(self, lease: Lease, amount: int) -> None:
        if amount:
            lease.left, lease.used = lease.left - amount, lease.used - amount
            self._later(asyncio.to_thread(self._counters.add, lease.counter, -amount))

    def _later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.warning("limits could not be counted, which makes them stricter or laxer by one lease: %s", error)
