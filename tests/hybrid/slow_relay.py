"""A relay that dawdles between its steps: slow_relay.py CONNINFO REDIS_URL PREFIX SEED. To be killed at any of them."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

from pgcache_py.relay import process as relay
from pgcache_py.relay.cycle import Cycle

DELAYS = (0.001, 0.02, 0.2, 0.7)


class SlowCycle(Cycle):
    chance: random.Random

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for step in ("call", "look", "begin", "send", "vouch"):
            setattr(self, step, self.slow(getattr(self, step)))

    def slow(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*args: Any, **options: Any) -> Any:
            self.dawdle()
            result = step(*args, **options)
            self.dawdle()
            return result

        return slowed

    def dawdle(self) -> None:
        if self.chance.random() < 0.015:
            time.sleep(self.chance.choice(DELAYS))


if __name__ == "__main__":
    conninfo, url, prefix, seed = sys.argv[1:]
    SlowCycle.chance = random.Random(seed)
    vars(relay)["Cycle"] = SlowCycle
    relay.Relay(conninfo, url, prefix=prefix).run()
