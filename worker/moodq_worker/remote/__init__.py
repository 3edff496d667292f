"""The hand-off: tasks that an OpenAI-compatible endpoint answers instead of the model here, off by default.

``stage`` stands in the loop beside ``labels`` and ``replies``; its threads ask through ``client``, as often
as ``budget`` and ``breaker`` allow. Whatever fails is done by the model here.
"""
