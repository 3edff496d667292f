// A client in plain Redis commands, and what it is good for: node messages.mjs
// The fields, their limits and all error codes are in ../../protocol.md.

import { randomUUID } from "node:crypto";
import { createClient } from "redis";

const BLOCK_MS = 5000;

export class Moodq {
  static async connect(url = process.env.MOODQ_REDIS_URL ?? "redis://127.0.0.1:6379") {
    const redis = await createClient({ url }).on("error", (error) => console.error(error.message)).connect();
    return new Moodq(redis);
  }

  constructor(redis) {
    this.redis = redis;
  }

  close() {
    return this.redis.close();
  }

  /** Sends one text; returns its id. Sent again under the same id it is not run again. */
  async submit(text, { tasks = ["sentiment"], id = randomUUID(), queue = "interactive", ...fields } = {}) {
    await this.#enqueue(id, [{ id, text, tasks, ...fields }], queue);
    return id;
  }

  /** Sends up to 1,000 texts as one job, each with a result of its own; returns their ids. */
  async submitMany(texts, { tasks = ["sentiment"], queue = "bulk" } = {}) {
    const job = randomUUID();
    const items = texts.map((text, number) => ({ id: `${job}-${number}`, text, tasks }));
    await this.#enqueue(job, items, queue);
    return items.map((item) => item.id);
  }

  async #enqueue(job, items, queue) {
    if ((await this.redis.exists(`rq:job:${job}`)) || (await this.redis.exists(`moodq:result:${job}`))) return;
    const now = new Date().toISOString();
    await this.redis
      .multi()
      .hSet(`rq:job:${job}`, {
        data: JSON.stringify(["moodq.run", null, [{ v: 1, items }], {}]),
        origin: queue,
        status: "queued",
        created_at: now,
        enqueued_at: now,
        timeout: "-1",
        retries_left: "2",
        result_ttl: "3600",
        failure_ttl: "86400",
        description: `moodq: ${items.length} items`,
      })
      .sAdd("rq:queues", `rq:queue:${queue}`)
      .rPush(`rq:queue:${queue}`, job)
      .exec();
  }

  /** The result of an item if it is there now, else null. */
  async result(id) {
    const value = await this.redis.get(`moodq:result:${id}`);
    return value === null ? null : JSON.parse(value);
  }

  /** The result of an item as soon as it is there. */
  async wait(id, timeoutMs = 60_000) {
    const found = await this.result(id);
    if (found !== null) return found;
    for await (const [event, data] of this.stream(id, timeoutMs)) {
      if (event === "done") return data;
    }
  }

  /** What happens to an item, from its beginning: ["label", …], ["token", …], at last ["done", result]. */
  async *stream(id, timeoutMs = 60_000) {
    const until = Date.now() + timeoutMs;
    const blocking = await this.redis.duplicate().connect(); // a read that blocks has a connection of its own
    let last = "0-0";
    try {
      while (true) {
        const left = until - Date.now();
        if (left <= 0) throw new Error(`no result for ${id} within ${timeoutMs} ms`);
        const stream = { key: `moodq:events:${id}`, id: last };
        const replies = await blocking.xRead(stream, { COUNT: 100, BLOCK: Math.min(BLOCK_MS, left) });
        for (const { id: entry, message } of replies?.[0]?.messages ?? []) {
          last = entry;
          yield [message.event, JSON.parse(message.data)];
          if (message.event === "done") return;
        }
      }
    } finally {
      blocking.destroy();
    }
  }

  /** Ends an item as cancelled; false when it had ended before. */
  async cancel(id) {
    const error = { code: "cancelled", message: "cancelled by its sender" };
    const result = JSON.stringify({
      v: 1, id, status: "failed", results: {}, error, worker: "", attempt: 0,
      finished_at: new Date().toISOString(),
    });
    if ((await this.redis.set(`moodq:result:${id}`, result, { EX: 3600, NX: true })) === null) return false;
    await this.redis
      .multi()
      .xAdd(`moodq:events:${id}`, "*", { event: "done", data: result })
      .expire(`moodq:events:${id}`, 3600)
      .publish("moodq:cancel", id)
      .exec();
    return true;
  }
}
