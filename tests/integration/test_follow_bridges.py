"""How log shippers hand over to ``moodq follow``, as ``docs/follow.md`` shows it: the one Debian packages."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from integration.test_follow import Follow, rows

PAGE = Path(__file__).parents[2] / "docs" / "follow.md"
RSYSLOGD = shutil.which("rsyslogd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@pytest.mark.skipif(
    RSYSLOGD is None, reason="rsyslogd is not installed: apt-get install rsyslog rsyslog-hiredis"
)
@pytest.mark.usefixtures("fake_worker")
def test_what_syslog_is_sent_is_labelled_by_way_of_rsyslogs_stock_redis_output(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    config = re.search(r"```rsyslog\n(.+?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert config is not None
    (tmp_path / "rsyslog.conf").write_text(
        f'module(load="imuxsock" SysSock.Name="{tmp_path / "log"}" SysSock.RateLimit.Interval="0")\n'
        + config[1].replace('serverport="6379"', f'serverport="{urlsplit(redis_url).port}"')
    )
    assert RSYSLOGD is not None
    with (tmp_path / "rsyslog.err").open("wb") as errors:
        daemon = subprocess.Popen(
            [RSYSLOGD, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")], stderr=errors
        )
    follow = Follow(
        redis_url, tmp_path, "--list", "logs", "--format", "jsonl", "--text-column", "message",
        "--columns", "host,severity,program",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "log").exists():
            assert time.monotonic() < deadline, (tmp_path / "rsyslog.err").read_text()
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(tmp_path / "log"))
            sender.send(b'<11>Jan  2 03:04:05 shop: a bad "quoted" day')
            sender.send("<14>Jan  2 03:04:06 shop[7]: 很差 100% {x}".encode())
        follow.until(lambda: len(rows(follow.output)) == 2)
        assert follow.stop() == 0, follow.told()
    finally:
        daemon.terminate()
        daemon.wait(30)
        if follow.process.poll() is None:
            follow.kill()
    first, second = rows(follow.output)
    assert first["text"] == 'a bad "quoted" day'
    assert first["columns"]["severity"] == "err"
    assert (second["text"], second["columns"]["program"]) == ("很差 100% {x}", "shop")
    assert first["results"]["sentiment"]["label"] == "negative"
