"""``moodq tag``: files of texts in, one record per text out, resumable.

``rows`` (read files) → ``tagging`` (send, wait, put in order) → ``output`` (records, rejects, checkpoint).
"""
