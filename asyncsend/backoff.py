"""How long to wait before the next attempt: pure arithmetic, chance passed in."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    Exponential growth with full jitter: the wait lies between `floor` and `min(cap, base * factor ** (attempt - 1))`, in seconds.

    Full jitter (any value of the range is as likely) spreads the retries after an outage better than a fixed wait with a
    little noise: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The floor is for receivers
    that refuse whoever comes back too early, as greylisting mail servers do.
    """

    base: float
    cap: float
    factor: float = 2.0
    floor: float = 0.0

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after `attempt` (1 for the first) failed; `chance` lies in [0, 1)."""
        # The exponent is bounded so that attempt 2,000 is not an OverflowError.
        try:
            ceiling = min(self.cap, self.base * self.factor ** min(attempt - 1, 64))
        except OverflowError:  # a factor of 100,000 does that at the 64th power
            ceiling = self.cap
        return self.floor + chance * max(0.0, ceiling - self.floor)


# A mail: 5 to 10 minutes at first (greylisting: RFC 6647, customary 300 s), then growing to half a day; 16 attempts
# span two to five days, which is what RFC 5321 section 4.5.4.1 asks of a sender before it gives up.
MAIL = Backoff(base=10 * MINUTE, cap=12 * HOUR, floor=5 * MINUTE)
# A webhook: seconds at first, a day at last, ten attempts: the schedule Standard Webhooks 1.0.0 suggests.
WEBHOOK = Backoff(base=5.0, cap=DAY, factor=4.0, floor=1.0)
# An SMS is wanted now or not at all.
SMS = Backoff(base=15.0, cap=10 * MINUTE, factor=3.0, floor=5.0)
# Your own functions and commands.
TASK = Backoff(base=15.0, cap=HOUR)
