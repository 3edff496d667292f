"""The process's own figures under Prometheus's standard names, on every system the worker runs on."""

from __future__ import annotations

from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class ProcessCollector(Collector):
    """``prometheus_client`` has one of this name that reads ``/proc`` and tells nothing elsewhere."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        with self._process.oneshot():
            memory, times = self._process.memory_info(), self._process.cpu_times()
            files, threads = self._process.num_fds(), self._process.num_threads()
            began = self._process.create_time()
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Memory of this process in RAM", value=memory.rss
        )
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Address space", value=memory.vms)
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time, user and system", value=times.user + times.system
        )
        yield GaugeMetricFamily("process_open_fds", "Open files and sockets", value=files)
        yield GaugeMetricFamily("process_threads", "Threads", value=threads)
        yield GaugeMetricFamily("process_start_time_seconds", "When it began, unix time", value=began)
