"""Exit codes of a worker beside those of errors (``moodq_config.errors``)."""

from __future__ import annotations

#: After a second signal: what ran was put back, unfinished (EX_TEMPFAIL).
EXIT_PUT_BACK = 75
#: The engine is stuck; a supervisor starts the worker again.
EXIT_HUNG = 70
#: A thread died of an error nobody foresaw: better gone, and its jobs taken over, than deaf.
EXIT_THREAD_DIED = 71
