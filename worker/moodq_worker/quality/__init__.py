"""How good a label task is: ``moodq eval``. Beside the way of a text, on an engine of its own.

``examples`` (labelled texts) → ``predict`` (the engine, batch by batch) → ``measures`` (figures with
intervals) → ``report`` (an HTML page).
"""
