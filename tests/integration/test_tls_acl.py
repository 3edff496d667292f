"""``deploy/redis/users.acl`` on real servers: Redis over TLS with client certificates, Valkey without TLS.

Everything works as the users of that file, and none of them may do more than its part.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from integration.gateway_server import followed, serving
from moodq_config.contracts import ResultStatus
from moodq_config.errors import BadInput, Unavailable
from moodq_config.settings import Settings, load_settings
from moodq_producer import AsyncClient, Client
from moodq_worker.embedded import free_port

StartFakeWorker = Callable[..., Any]

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
FOLLOW_PAGE = Path(__file__).parents[2] / "docs" / "follow.md"
ROLES = ("ADMIN", "WORKER", "PRODUCER", "SHOP", "METRICS", "DESK")
START_S = 30.0
RESULT_S = 30.0


@dataclass
class Secured:
    """A server with the shipped users. ``env`` holds the files of TLS as settings."""

    scheme: str
    port: int
    env: dict[str, str]

    def url(self, user: str) -> str:
        return f"{self.scheme}://{user}:{password(user)}@127.0.0.1:{self.port}/0"

    def settings(self, user: str, **more: Any) -> Settings:
        files = {name.removeprefix("MOODQ_").lower(): path for name, path in self.env.items()}
        return load_settings(redis_url=self.url(user), **files, **more)

    def connect(self, user: str) -> Redis:
        tls = {
            "ssl_ca_certs": self.env.get("MOODQ_REDIS_CA_FILE"),
            "ssl_certfile": self.env.get("MOODQ_REDIS_CERT_FILE"),
            "ssl_keyfile": self.env.get("MOODQ_REDIS_KEY_FILE"),
        }
        return Redis.from_url(self.url(user), **(tls if self.scheme == "rediss" else {}))


def password(user: str) -> str:
    return f"pass/word-of-{user.removeprefix('moodq-')}".replace("/", "%2F")


def rendered_users() -> str:
    """The file as ``deploy/redis/README.md`` has it made: each mark replaced by a password's hash."""
    text = USERS.read_text("utf-8")
    for role in ROLES:
        plain = f"pass/word-of-{role.lower()}"
        text = text.replace(f"#{role}_SHA256", "#" + hashlib.sha256(plain.encode()).hexdigest())
    return text


@pytest.fixture(scope="session", params=["redis-tls", "valkey"])
def secured(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server_program: Callable[[str], str],
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "users.acl").write_text(rendered_users(), "utf-8")
    port = free_port()
    listen, env, scheme = ["--port", str(port)], {}, "redis"
    if request.param == "redis-tls":
        authority, scheme = trustme.CA(), "rediss"
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name in ("server", "client"):
            made = authority.issue_cert("127.0.0.1" if name == "server" else "moodq.example")
            made.private_key_pem.write_to_path(folder / f"{name}.key")
            made.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        listen = [
            "--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(folder / "ca.pem"),
            "--tls-cert-file", str(folder / "server.pem"), "--tls-key-file", str(folder / "server.key"),
            "--tls-auth-clients", "yes",
        ]  # fmt: skip
        env = {
            "MOODQ_REDIS_CA_FILE": str(folder / "ca.pem"),
            "MOODQ_REDIS_CERT_FILE": str(folder / "client.pem"),
            "MOODQ_REDIS_KEY_FILE": str(folder / "client.key"),
        }
    binary = server_program("redis" if request.param == "redis-tls" else "valkey")
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [binary, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder),
             "--aclfile", str(folder / "users.acl"), "--daemonize", "no"],
            stdout=output, stderr=output,
        )  # fmt: skip
    server = Secured(scheme, port, env)
    try:
        deadline = time.monotonic() + START_S
        with server.connect("admin") as admin:
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    admin.ping()
                    break
                except RedisError:
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait(START_S)


@pytest.fixture
def redis_url(secured: Secured) -> str:
    """What ``start_fake_worker`` gives its workers."""
    return secured.url("moodq-worker")


@pytest.fixture
def connection(secured: Secured) -> Iterator[Any]:
    """The administrator's, of an empty database and an empty log of refusals."""
    with secured.connect("admin") as admin:
        admin.flushall()
        admin.execute_command("ACL", "LOG", "RESET")
        yield admin


@pytest.fixture
def worker(start_fake_worker: StartFakeWorker, secured: Secured) -> Any:
    return start_fake_worker(
        **secured.env,
        MOODQ_QUEUES="interactive,bulk,shop,bank",
        MOODQ_QUEUE_ID_PREFIXES="shop=shop-,bank=bank-",
        MOODQ_LEASE_S="2",
    )


@pytest.fixture
def shop(secured: Secured) -> Iterator[Client]:
    """A client that knows what its user may do."""
    settings = secured.settings(
        "moodq-shop", queues=("shop",), client_name="shop", id_prefix="shop-", max_items_per_s=1_000.0
    )
    with Client(settings) as client:
        yield client


def refusals(admin: Any) -> list[Any]:
    """What anybody was refused. Redis before 7.2 knows no CLIENT SETINFO, so no user has it; redis-py does
    without."""
    found = [(entry["username"], entry["object"]) for entry in admin.acl_log()]
    return [one for one in found if one[1] != "client|setinfo"]


def moodq(secured: Secured, user: str, folder: Path, *args: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-m", "moodq_config.cli", *args],
        capture_output=True,
        cwd=folder,
        env={**clean, **secured.env, "MOODQ_REDIS_URL": secured.url(user), "COLUMNS": "160"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_producer_worker_and_metrics_do_all_their_work_as_their_users(
    worker: Any, secured: Secured, connection: Any, start_fake_worker: StartFakeWorker, tmp_path: Path
) -> None:
    settings = secured.settings("moodq-producer", max_items_per_s=1_000.0)
    with Client(settings) as client:
        done = client.submit("a fine day", ["sentiment", "reply"], id="one", metadata={"a": 1}).wait(RESULT_S)
        assert done.results["sentiment"].label == "positive"  # type: ignore[union-attr]
        again = client.submit("a fine day", ["sentiment", "reply"], id="one").wait(RESULT_S)
        assert again == done
        kinds = [event.kind for event in client.stream(client.submit("so bad", ["reply"]).id, RESULT_S)]
        assert kinds[-1] == "done"
        many = [t.id for t in client.submit_many([f"text {n}" for n in range(150)] + ["[[nan]]"], chunk=50)]
        found = {result.id: result.status for result in client.wait(many, RESULT_S)}
        assert sorted(found.values()).count(ResultStatus.DONE) == 150
        broken = client.submit("[[raise]]").wait(RESULT_S)
        assert broken.error is not None
        assert client.workers_alive() == 1

    async def together() -> list[str]:
        async with AsyncClient(settings) as client:
            tickets = [await client.submit(f"a fine day {n}") for n in range(20)]
            return [str((await asyncio.create_task(t.wait(RESULT_S))).status) for t in tickets]

    assert set(asyncio.run(together())) == {"done"}
    # A worker dies with work in hand, and another takes it over.
    with Client(settings) as client:
        slow = client.submit("[[sleep 3]] a fine day", id="slow")
        wait_until(lambda: connection.zcard("rq:wip:interactive"))
        worker.kill()
        start_fake_worker(**secured.env, MOODQ_LEASE_S="2")
        taken_over = slow.wait(RESULT_S)
        assert (taken_over.status, taken_over.attempt) == (ResultStatus.DONE, 2)
    # RQ's own ways: suspended workers claim nothing, a command shuts down.
    connection.set("rq:suspended", 1)
    time.sleep(1.5)
    connection.delete("rq:suspended")
    code, output, errors = moodq(secured, "moodq-producer", tmp_path, "send", "a fine day", "--stream")
    assert (code, errors) == (0, "")
    code, output, errors = moodq(secured, "moodq-metrics", tmp_path, "stats")
    assert (code, errors) == (0, "")
    assert "interactive" in output
    assert " alive: worker-" in output
    code, output, errors = moodq(secured, "moodq-metrics", tmp_path, "exporter", "--once")
    assert (code, errors) == (0, "")
    assert 'moodq_queue_abandoned_jobs{queue="interactive"} 0.0' in output
    assert 'moodq_job_cost_seconds{queue="interactive"}' in output
    assert refusals(connection) == []


def test_people_at_the_desk_answer_in_conversations_and_take_routed_messages(
    secured: Secured, connection: Any, start_fake_worker: StartFakeWorker, tmp_path: Path
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('[[routes]]\nwhen = "sentiment is negative"\nroute = "human"\n', "utf-8")
    start_fake_worker(
        **secured.env, MOODQ_REDIS_URL=secured.url("moodq-worker"), MOODQ_TASKS_FILE=str(routes)
    )
    with Client(secured.settings("moodq-producer")) as client, Client(secured.settings("moodq-desk")) as desk:
        people = desk.conversations
        client.submit("hello", ["reply"], id="1", conversation="c").wait(RESULT_S)
        people.take_over("c", by="Ann")
        people.say("c", "I am Ann.", by="Ann")
        silent = client.submit("hello", ["reply"], id="2", conversation="c").wait(RESULT_S)
        assert silent.silenced == {"reply": "taken_over"}
        assert [turn.role for turn in people.show("c").turns] == ["user", "assistant", "person", "user"]
        assert people.release("c")
        client.submit("so bad", ["sentiment"], id="3").wait(RESULT_S)
        assert people.next_routed("human", timeout=RESULT_S) is not None
    assert refusals(connection) == []


def test_the_oldest_age_is_left_out_for_a_user_that_may_not_see_texts(
    secured: Secured, connection: Any, shop: Client, tmp_path: Path
) -> None:
    shop.submit("a fine day", queue="shop")
    code, output, errors = moodq(secured, "moodq-metrics", tmp_path, "stats", "--json")
    assert code == 0, errors
    assert json.loads(output)["queues"]["shop"]["length"] == 1
    assert json.loads(output)["queues"]["shop"]["oldest_age_s"] is None


@pytest.mark.usefixtures("worker")
def test_moodq_follow_works_with_the_rights_that_its_page_gives(
    secured: Secured, connection: Any, tmp_path: Path
) -> None:
    more = re.search(r"```acl\n(.+?)```", FOLLOW_PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert more is not None
    [mine] = re.findall(r"^user moodq-producer (.+)$", USERS.read_text("utf-8"), flags=re.MULTILINE)
    rules = re.findall(r"\([^)]*\)|\S+", mine.replace("#PRODUCER_SHA256", ">pass/word-of-follow") + more[1])
    connection.execute_command("ACL", "SETUSER", "moodq-follow", *rules)
    process = None
    try:
        for number in range(30):
            connection.xadd("reviews", {"text": f"fine {number}"})
            connection.rpush("logs", f"bad {number}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        process = subprocess.Popen(
            [
                sys.executable, "-m", "moodq_config.cli", "follow", "--stream", "reviews", "--list", "logs",
                "--from", "start", "--to-stream", "labels", "--claim-after", "2s",
            ],
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**clean, **secured.env, "MOODQ_REDIS_URL": secured.url("moodq-follow")},
        )  # fmt: skip
        wait_until(lambda: process.poll() is not None or connection.xlen("labels") >= 60)
        time.sleep(1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        assert connection.xlen("labels") == 60
        assert connection.xinfo_groups("reviews")[0]["pending"] == 0
        assert {what for _, what in refusals(connection)} <= {"unlink"}
    finally:
        if process is not None and process.poll() is None:
            process.kill()
        connection.execute_command("ACL", "DELUSER", "moodq-follow")


def test_a_producer_of_its_own_queue_works_within_its_share(
    worker: Any, shop: Client, connection: Any
) -> None:
    result = shop.submit("a fine day", ["sentiment", "reply"], queue="shop").wait(RESULT_S)
    assert result.status == "done"
    assert result.id.startswith("shop-")
    ids = [ticket.id for ticket in shop.submit_many(["good", "bad", "fine"], queue="shop", chunk=2)]
    assert len(list(shop.wait(ids, RESULT_S))) == 3
    with pytest.raises(BadInput, match="shop-"):
        shop.submit("a fine day", id="bank-1", queue="shop")
    assert refusals(connection) == []


@pytest.mark.usefixtures("worker")
async def test_the_gateway_does_all_its_work_as_a_workers_user(secured: Secured, connection: Any) -> None:
    files = {name.removeprefix("MOODQ_").lower(): path for name, path in secured.env.items()}
    secret = {"gateway_callback_secret": "s" * 32, "gateway_callback_private": True}
    async with serving(redis_url=secured.url("moodq-worker"), **files, **secret) as gateway:
        answer = await gateway.post("/v1/analyze", json={"id": "a", "text": "a fine day"})
        assert answer.json()["status"] == "done"
        hook = {"id": "b", "text": "so bad", "tasks": ["reply"], "callback_url": "http://127.0.0.1:9/"}
        assert (await gateway.post("/v1/jobs", json=hook)).status_code == 202
        assert (await followed(gateway, "b"))[-1].event == "done"
        items = [{"id": f"c{number}", "text": "fine"} for number in range(3)]
        assert (await gateway.post("/v1/batch", json={"items": items})).status_code == 202
        assert (await followed(gateway, "c2"))[-1].event == "done"
        assert (await gateway.get("/v1/results", params={"ids": "c0,c1"})).status_code == 200
        assert (await gateway.delete("/v1/jobs/d")).json()["status"] == "cancelled"
        assert (await gateway.get("/v1/status")).json()["workers"] == 1
        assert (await gateway.get("/readyz")).status_code == 200
    assert refusals(connection) == []


@pytest.mark.parametrize(
    ("user", "more"),
    [
        ("moodq-producer", {}),
        ("moodq-shop", {"MOODQ_QUEUES": "shop", "MOODQ_CLIENT_NAME": "shop", "MOODQ_ID_PREFIX": "shop-"}),
    ],
)
def test_a_file_is_tagged_by_producers_that_may_delete_no_result(
    worker: Any, secured: Secured, connection: Any, tmp_path: Path, user: str, more: dict[str, str]
) -> None:
    (tmp_path / "in.log").write_text("so bad\na fine day\n", "utf-8")
    queue = more.get("MOODQ_QUEUES", "bulk")
    its = Secured(secured.scheme, secured.port, secured.env | more)
    code, output, errors = moodq(its, user, tmp_path, "tag", "in.log", "--queue", queue)
    assert code == 0, errors
    labels = [json.loads(line)["results"]["sentiment"]["label"] for line in output.splitlines()]
    assert labels == ["negative", "positive"]
    assert len(connection.keys("moodq:result:*")) == 2


#: What a producer with a queue of its own may not do: read others, take jobs, write results, run the server.
FORBIDDEN: tuple[tuple[str | int, ...], ...] = (
    ("GET", "moodq:result:bank-1"),
    ("MGET", "moodq:result:shop-1", "moodq:result:bank-1"),
    ("EXISTS", "moodq:result:bank-1"),
    ("XREAD", "STREAMS", "moodq:events:bank-1", "0-0"),
    ("SET", "moodq:result:shop-1", "{}"),
    ("DEL", "moodq:result:shop-1"),
    ("XADD", "moodq:events:shop-1", "*", "event", "done"),
    ("HGETALL", "rq:job:shop-1"),
    ("HGET", "rq:job:bank-1", "data"),
    ("HSET", "rq:job:bank-1", "status", "canceled"),
    ("DEL", "rq:job:bank-1"),
    ("SADD", "rq:job:shop-1:dependents", "bank-1"),
    ("RPUSH", "rq:queue:bank", "shop-1"),
    ("RPUSH", "rq:queue:interactive", "shop-1"),
    ("LLEN", "rq:queue:bank"),
    ("LRANGE", "rq:queue:shop", 0, -1),
    ("LPOP", "rq:queue:shop"),
    ("DEL", "rq:queue:shop"),
    ("ZADD", "rq:wip:shop", 1, "shop-1:x"),
    ("ZRANGE", "rq:failed:shop", 0, -1),
    ("HGETALL", "rq:worker:any"),
    ("DEL", "rq:workers"),
    ("SREM", "rq:queues", "rq:queue:bank"),
    ("SMEMBERS", "rq:queues"),
    ("HGETALL", "moodq:cache:young"),
    ("HSET", "moodq:cache:young", "x", "y"),
    ("HSET", "moodq:pins", "sentiment x", "positive"),
    ("INCR", "moodq:pins:revision"),
    ("GET", "moodq:rate:bank"),
    ("DEL", "moodq:memory"),
    ("SET", "rq:suspended", 1),
    ("PUBLISH", "rq:pubsub:any", '{"command": "shutdown"}'),
    ("SUBSCRIBE", "rq:pubsub:any"),
    ("KEYS", "*"),
    ("SCAN", 0),
    ("RANDOMKEY",),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "moodq-shop", "+@all"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", 1000),
    ("MONITOR",),
    ("LATENCY", "DOCTOR"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "127.0.0.1", 1),
    ("MODULE", "LIST"),
    ("SLOWLOG", "GET"),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("FUNCTION", "LIST"),
    ("EVAL", "return 1", 0),
    ("SELECT", 1),
    ("SWAPDB", 0, 1),
    ("MIGRATE", "127.0.0.1", 1, "x", 0, 1),
    ("OBJECT", "HELP"),
    ("DUMP", "rq:job:shop-1"),
    ("RENAME", "rq:job:shop-1", "rq:job:bank-1"),
    ("COPY", "moodq:result:bank-1", "moodq:result:shop-1"),
)


@pytest.mark.parametrize("command", FORBIDDEN, ids=lambda command: " ".join(map(str, command[:2])))
def test_a_producer_may_not(secured: Secured, connection: Any, command: tuple[str | int, ...]) -> None:
    connection.set("moodq:result:bank-1", "secret")
    with secured.connect("moodq-shop") as redis:
        connected: Any = redis
        with pytest.raises(NoPermissionError):
            connected.execute_command(*command)


@pytest.mark.parametrize(
    "body",
    [
        "return redis.call('GET', 'moodq:result:bank-1')",
        "return redis.call('GET', 'moodq:result:' .. 'bank-1')",
        "return redis.call('SET', 'moodq:result:shop-1', 'forged')",
        "return redis.call('HGETALL', 'rq:job:bank-1')",
        "return redis.call('LPOP', 'rq:queue:bank')",
        "return redis.call('RPUSH', 'rq:queue:bank', 'shop-1')",
        "return redis.call('CONFIG', 'GET', '*')",
        "return redis.call('FLUSHALL')",
        "return redis.call('KEYS', '*')",
    ],
)
def test_a_script_of_a_producer_may_no_more_than_the_producer(
    secured: Secured, connection: Any, body: str
) -> None:
    connection.set("moodq:result:bank-1", "secret")
    connection.rpush("rq:queue:bank", "bank-1")
    with secured.connect("moodq-shop") as redis:
        connected: Any = redis
        sha = connected.script_load(body)
        with pytest.raises(ResponseError, match=r"(?i)acl|permission|can't (access|run)|not allowed"):
            connected.evalsha(sha, 0)
        with pytest.raises((NoPermissionError, ResponseError)):
            connected.evalsha(sha, 2, "moodq:result:bank-1", "moodq:result:shop-1")
    assert connection.get("moodq:result:bank-1") == b"secret"
    assert not connection.exists("moodq:result:shop-1")
    assert connection.lrange("rq:queue:bank", 0, -1) == [b"bank-1"]


def test_a_producer_cannot_answer_for_another_through_the_worker(
    worker: Any, secured: Secured, connection: Any, shop: Client
) -> None:
    """It may push what it likes onto its queue; the worker touches neither another's job nor result."""
    connection.hset("rq:job:bank-1", mapping={"status": "queued", "origin": "bank", "data": "[]"})
    items = [
        {"id": "bank-2", "text": "a fine day", "tasks": ["sentiment"]},
        {"id": "shop-2", "text": "a fine day", "tasks": ["sentiment"]},
    ]
    good = json.dumps(["moodq.run", None, [{"v": 1, "items": items}], {}])
    refused = json.dumps(["os.system", None, [{"v": 1, "items": items}], {}])
    with secured.connect("moodq-shop") as redis:
        redis.hset("rq:job:shop-good", mapping={"status": "queued", "origin": "bank", "data": good})
        redis.hset("rq:job:shop-refused", mapping={"status": "queued", "origin": "shop", "data": refused})
        redis.rpush("rq:queue:shop", "bank-1", "shop-good", "shop-refused")
    [mine] = shop.wait(["shop-2"], RESULT_S)
    assert mine.id == "shop-2"
    [other] = shop.wait(["shop-good-0"], RESULT_S)
    assert other.error is not None
    assert other.error.code == "invalid_field"
    wait_until(lambda: not connection.llen("rq:queue:shop") and not connection.zcard("rq:wip:shop"))
    assert connection.keys("moodq:*:bank-*") == []
    assert connection.hgetall("rq:job:bank-1") == {b"status": b"queued", b"origin": b"bank", b"data": b"[]"}
    assert connection.zrange("rq:failed:bank", 0, -1) == []


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("moodq-metrics", ("HGETALL", "rq:job:a")),
        ("moodq-metrics", ("GET", "moodq:result:a")),
        ("moodq-metrics", ("RPUSH", "rq:queue:interactive", "a")),
        ("moodq-metrics", ("EVAL", "return 1", 0)),
        ("moodq-metrics", ("CONFIG", "GET", "*")),
        ("moodq-producer", ("LPOP", "rq:queue:interactive")),
        ("moodq-producer", ("LRANGE", "moodq:conversation:a", 0, -1)),
        ("moodq-producer", ("SET", "moodq:takeover:a", "x")),
        ("moodq-producer", ("LPOP", "moodq:route:human")),
        ("moodq-desk", ("GET", "moodq:result:a")),
        ("moodq-desk", ("XREAD", "STREAMS", "moodq:events:a", "0-0")),
        ("moodq-desk", ("RPUSH", "rq:queue:interactive", "a")),
        ("moodq-desk", ("PUBLISH", "moodq:cancel", "a")),
        ("moodq-desk", ("KEYS", "*")),
        ("moodq-producer", ("RPUSH", "rq:queue:shop", "a")),
        ("moodq-producer", ("SET", "moodq:result:a", "x")),
        ("moodq-producer", ("FLUSHALL",)),
        ("moodq-producer", ("CONFIG", "GET", "*")),
        ("moodq-worker", ("FLUSHALL",)),
        ("moodq-worker", ("KEYS", "*")),
        ("moodq-worker", ("CONFIG", "GET", "*")),
        ("moodq-worker", ("ACL", "LIST")),
        ("moodq-worker", ("GET", "another-application")),
        ("moodq-worker", ("PUBLISH", "another-application", "x")),
        ("moodq-worker", ("CLIENT", "KILL", "TYPE", "normal")),
        ("moodq-worker", ("SHUTDOWN",)),
        ("moodq-worker", ("LATENCY", "DOCTOR")),
    ],
    ids=str,
)
def test_no_user_may_do_more_than_its_part(
    secured: Secured, connection: Any, user: str, command: tuple[str | int, ...]
) -> None:
    with secured.connect(user) as redis:
        connected: Any = redis
        with pytest.raises(NoPermissionError):
            connected.execute_command(*command)


def test_nobody_enters_without_a_name_or_with_a_wrong_password(secured: Secured, connection: Any) -> None:
    for url in (
        secured.url("moodq-shop").replace("word-of", "word-off"),
        f"{secured.scheme}://127.0.0.1:{secured.port}/0",
    ):
        files = {name.removeprefix("MOODQ_").lower(): path for name, path in secured.env.items()}
        with pytest.raises(Unavailable) as caught:
            Client(load_settings(redis_url=url, **files))
        assert "word-off" not in caught.value.message


@pytest.mark.parametrize("secured", ["redis-tls"], indirect=True)
def test_tls_is_checked_on_both_ends(secured: Secured, connection: Any, tmp_path: Path) -> None:
    url, files = secured.url("moodq-producer"), dict(secured.env)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    plain = url.replace("rediss://", "redis://")
    named = url.replace("127.0.0.1", "localhost")  # not what the certificate says
    wrong: list[tuple[str, dict[str, str]]] = [
        (url, {}),
        (url, {**files, "MOODQ_REDIS_CA_FILE": str(tmp_path / "other.pem")}),
        (url, {"MOODQ_REDIS_CA_FILE": files["MOODQ_REDIS_CA_FILE"]}),
        (named, files),
        (plain, {}),
    ]
    for address, given in wrong:
        settings = {name.removeprefix("MOODQ_").lower(): path for name, path in given.items()}
        with pytest.raises(Unavailable):
            Client(load_settings(redis_url=address, **settings))
    with Client(secured.settings("moodq-producer")) as client:
        assert client.workers_alive() == 0


def wait_until(holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
