"""The Transformers engine: the only package of moodq that imports torch.

``load_engine`` is its one door; the rest of the worker sees ``moodq_worker.engine.Engine``.
"""

from moodq_worker.engine_hf.engine import HfEngine, load_engine

__all__ = ["HfEngine", "load_engine"]
