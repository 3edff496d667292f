/** The state of the service, read again and again while the page can be seen, told to whoever listens. */

import { ApiError, call, pause } from "./api.js";

const listeners = new Set();
let every = 10_000;
let wake = new AbortController();

/** `state`: `wait`, `ready`, `no_worker`, `lost`, `key` or `trouble`; `status`: the last one read, if any. */
export const health = { state: "wait", status: null, error: null };

/** Calls `heard(health)` after every reading; returns the function that ends it. */
export function listen(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}

/** How often to read, in milliseconds; the next reading is at once. */
export function readEvery(ms) {
  every = ms;
  readNow();
}

export function readNow() {
  wake.abort();
}

/** Reads for ever; a hidden page waits until it is seen. */
export async function watch() {
  document.addEventListener("visibilitychange", () => document.hidden || readNow());
  for (;;) {
    wake = new AbortController();
    if (!document.hidden) await read();
    try {
      // A lost connection is looked after sooner than a quiet one.
      await pause(document.hidden ? 3_600_000 : health.state === "lost" ? Math.min(every, 2_000) : every, wake.signal);
    } catch {
      // woken
    }
  }
}

async function read() {
  try {
    health.status = await call("GET", "v1/status", { signal: AbortSignal.timeout(8_000) });
    health.error = null;
    health.state = health.status.workers > 0 ? "ready" : "no_worker";
  } catch (error) {
    health.error = error;
    const silent = !(error instanceof ApiError) || error.status === 0;
    health.state = silent ? "lost" : error.code === "key" ? "key" : "trouble";
  }
  for (const heard of [...listeners]) heard(health);
}
