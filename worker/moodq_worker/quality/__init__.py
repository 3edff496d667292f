"""How good a label task is, and how to better it: ``moodq eval``, ``moodq tune``. Beside the way of a text,
on an engine of its own.

``examples`` (labelled texts) → ``predict`` (the engine, batch by batch) → ``measures`` (figures with
intervals) → ``screen``, ``report`` (an HTML page); or → ``calibration`` → ``tune`` → ``task_file``.
"""
