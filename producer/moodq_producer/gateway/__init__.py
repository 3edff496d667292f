"""The HTTP gateway: what the async client does, for whoever speaks HTTP.

A request comes through ``edge`` (its id, headers, metrics, log line) and ``access`` (key, rate) to a route
(``items``, ``events``, ``live``); errors leave as ``problems``. ``services`` holds what the routes share,
``callbacks`` tells others when a result is there, ``app`` puts it together, ``serving`` runs it.
"""
