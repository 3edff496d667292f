"""Callbacks (webhooks): a result is sent to the URL that its job names, at least once.

``pending`` keeps what is owed in Redis, so that it outlives the gateway; ``delivery`` waits for results and
sends them, signed by ``signing``, to addresses that ``addresses`` allows.
"""
