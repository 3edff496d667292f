"""``moodq exporter``: the queue-wide figures for Prometheus, and where it finds the workers' own."""
