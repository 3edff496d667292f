"""How long the engine's threads look for more work before they sleep; set before torch is loaded.

GNU OpenMP, which torch's Linux builds use, lets a waiting thread spin for milliseconds. On a core of its own
that saves a wake-up between two products; where another process wants the core, every product waits for a
spinning thread's time slice to end, and a batch takes many times as long (docs/adr/018). A short spin keeps
most of the first and none of the second."""

from __future__ import annotations

from collections.abc import MutableMapping

#: Rounds of the waiting loop, some microseconds; OpenMP's own default is 300,000.
SPIN_COUNT = 2_000
#: What an operator may have decided already.
DECIDED_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Set the spin count in ``environment``, that of this process, unless something there decides it. Has no
    effect once torch is loaded: OpenMP reads it then."""
    if not any(name in environment for name in DECIDED_BY):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
