"""``moodq plan``: how many workers, what memory and what Redis a rate needs, from costs measured here.

``measure`` asks the engine what passes and decode steps cost, ``costs`` keeps that in a file, ``simulate``
says how long texts take at a worker, ``planning`` makes the plan of it, and ``screen`` shows it. A running
worker loads none of it.
"""
