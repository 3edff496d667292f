"""The worker: claims jobs from Redis, batches their texts through one model, writes the results.

The way of a text through this package: ``rq_worker`` (claim) → ``intake`` (validate, tokenize) →
``batcher`` → ``engine`` → ``delivery`` (result keys, RQ's registries); ``loop`` drives it.
Only ``engine_hf`` imports torch.
"""
