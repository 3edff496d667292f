/** Many texts through the bulk queue: sent in chunks, results gathered as they come, trouble waited out. */

import { ApiError, call, pause } from "./api.js";
import { randomId } from "./store.js";

const CHUNK = 200;

/** Bytes of text in a chunk at most: a gateway takes a mebibyte unless it is told otherwise. */
const CHUNK_BYTES = 600_000;

/** Texts sent and not answered; further chunks wait. */
const IN_FLIGHT = 1_000;

/** Ids asked for at once: what fits well into an address. */
const ASKED = 100;

const POLL_MS = 300;
const RETRY_MS = 2_000;
const CANCELS_AT_ONCE = 6;

const utf8 = new TextEncoder();

export class Batch {
  /** `texts`: `{line, text}`; `fields`: of every item; `changed()` is called after every step. */
  constructor(texts, fields, changed) {
    Object.assign(this, { texts, fields, changed });
    this.results = new Array(texts.length).fill(null);
    this.done = 0;
    this.failed = 0;
    this.started = performance.now();
    this.ended = null;
    this.troubles = {}; // the errors that are waited out now: of sending, of gathering
    this.stopped = false;
    this.run = randomId(6);
    this.pending = new Map(); // number of the text by its item's id, in the order they were sent
    this.abort = new AbortController();
  }

  /** Resolves when everything is answered, or stopped. Raises `ApiError` for what waiting cannot cure. */
  async go() {
    try {
      await Promise.all([this.send(), this.gather()]);
    } catch (error) {
      const stopped = this.stopped;
      this.stopped = true;
      this.abort.abort();
      if (!stopped) throw error;
    } finally {
      this.ended = performance.now();
      this.troubles = {};
      this.changed();
    }
  }

  /** What is waited out now; null when nothing is. */
  get trouble() {
    return this.troubles.send ?? this.troubles.gather ?? null;
  }

  /** Sends nothing more, and takes back what waits. */
  async stop() {
    this.stopped = true;
    this.abort.abort();
    const ids = [...this.pending.keys()];
    const take = async () => {
      for (let id = ids.pop(); id; id = ids.pop()) await call("DELETE", `v1/jobs/${id}`).catch(() => {}); // may have ended
    };
    await Promise.all(Array.from({ length: CANCELS_AT_ONCE }, take));
  }

  /** Texts a second, so far. */
  get rate() {
    return this.done / Math.max(0.001, ((this.ended ?? performance.now()) - this.started) / 1_000);
  }

  async send() {
    for (let from = 0, chunk; from < this.texts.length; from += chunk.length) {
      chunk = this.chunk(from);
      while (this.pending.size + chunk.length > IN_FLIGHT) await pause(POLL_MS, this.abort.signal);
      const items = chunk.map(({ text }, n) => ({ id: `${this.run}-${from + n}`, text, ...this.fields }));
      // Sent again after a lost answer, the same ids make no second job.
      const rejected = await this.patiently("send", () => this.post(items));
      const refused = new Map(rejected.map(({ index, code, detail }) => [index, { code, message: detail }]));
      for (const [n, item] of items.entries()) {
        if (refused.has(n)) this.arrived(from + n, { id: item.id, status: "failed", results: {}, error: refused.get(n) });
        else this.pending.set(item.id, from + n);
      }
      this.changed();
    }
    this.allSent = true;
  }

  chunk(from) {
    let bytes = 0;
    let to = from;
    while (to < this.texts.length && to - from < CHUNK) {
      bytes += utf8.encode(this.texts[to].text).length;
      if (bytes > CHUNK_BYTES && to > from) break;
      to++;
    }
    return this.texts.slice(from, to);
  }

  /** What the gateway refused of `items`; that may be all of them. */
  async post(items) {
    try {
      return (await call("POST", "v1/batch", { body: { items, queue: "bulk" }, signal: this.abort.signal })).rejected ?? [];
    } catch (error) {
      if (error instanceof ApiError && error.rejected?.length === items.length) return error.rejected;
      throw error;
    }
  }

  async gather() {
    while (!this.allSent || this.pending.size) {
      const before = this.done;
      const ids = [...this.pending.keys()];
      for (let n = 0; n < ids.length; n += ASKED) {
        const asked = ids.slice(n, n + ASKED);
        const { results } = await this.patiently("gather", () => call("GET", `v1/results?ids=${asked.join(",")}`, { signal: this.abort.signal }));
        let found = 0;
        for (const id of asked) {
          if (!results[id]) continue;
          found++;
          this.arrived(this.pending.get(id), results[id]);
          this.pending.delete(id);
        }
        if (!found) break; // later ones were sent later
      }
      if (this.done > before) this.changed();
      await pause(this.done > before ? POLL_MS / 2 : POLL_MS, this.abort.signal);
    }
  }

  arrived(n, result) {
    this.results[n] = result;
    this.done++;
    if (result.status !== "done") this.failed++;
  }

  async patiently(doing, attempt) {
    for (;;) {
      try {
        const answer = await attempt();
        if (this.troubles[doing]) {
          this.troubles[doing] = null;
          this.changed();
        }
        return answer;
      } catch (error) {
        if (!(error instanceof ApiError) || !error.passing) throw error;
        this.troubles[doing] = error;
        this.changed();
        await pause((error.retryAfter ? error.retryAfter * 1_000 : RETRY_MS) * (1 + Math.random() / 4), this.abort.signal);
      }
    }
  }
}
