"""``moodq follow``: growing files or Redis Streams in, one record per text out, for as long as it runs.

``files`` (``tail``, ``multiline``, ``checkpoint``) or ``group`` read records; ``pump`` sends them, waits and
writes them in order through ``sinks``, and only then tells the source; ``windows`` and ``alerts`` watch what
comes out.
"""
