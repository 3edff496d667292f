/** The gateway's HTTP interface: requests with the key, problems as errors, and an item's events as they come. */

import { session } from "./store.js";

/** Seconds without a byte after which a stream counts as lost; the gateway sends a comment more often. */
const SILENT_S = 45;

/** What went wrong, by the code of the problem document; `connection` when there was no answer at all. */
export class ApiError extends Error {
  constructor(code, { status = 0, detail = "", limit, retryAfter, rejected } = {}) {
    super(detail || code);
    Object.assign(this, { code, status, detail, limit, retryAfter, rejected });
  }

  /** Whether the same request may go well a moment later. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export const key = () => session.get("key") ?? "";
export const setKey = (value) => session.set("key", value || null);

/** The answer's JSON. Raises `ApiError`, or the signal's reason. */
export async function call(method, path, { body, headers, signal } = {}) {
  const response = await send(method, path, { body, headers, signal });
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ApiError("connection", { detail: String(error) });
  }
}

async function send(method, path, { body, headers = {}, signal }) {
  const all = { Accept: "application/json", ...headers };
  if (key()) all.Authorization = `Bearer ${key()}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI.split("#")[0]), {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ApiError("connection", { detail: String(error) });
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not from the gateway, but from something before it: the status has to do.
  }
  const code = response.status === 401 || response.status === 403 ? "key" : (told.code ?? `http_${response.status}`);
  const after = Number(response.headers.get("Retry-After"));
  return new ApiError(code, {
    status: response.status,
    detail: told.detail ?? told.title ?? response.statusText,
    limit: told.limit,
    rejected: told.rejected,
    retryAfter: after > 0 ? after : undefined,
  });
}

/**
 * The events of an item, `{event, data}`, until `done`. A broken stream is taken up again after the last
 * event seen; `onLost` and `onBack` tell of it. Raises `ApiError` when there is no such item.
 */
export async function* follow(id, { signal, onLost = () => {}, onBack = () => {} }) {
  let last = "";
  let broken = 0;
  for (;;) {
    const silence = new AbortController();
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await send("GET", `v1/stream/${encodeURIComponent(id)}`, {
        headers,
        signal: AbortSignal.any([signal, silence.signal]),
      });
      if (broken) onBack();
      if (response.status === 204) return; // all of it had been seen
      for await (const event of events(response.body, silence)) {
        broken = 0;
        if (event.id) last = event.id;
        yield event;
        if (event.event === "done") return;
      }
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof ApiError && !error.passing) throw error;
    }
    if (broken++) onLost(); // a stream that ends once, as at a time limit, is nothing to tell
    await pause(Math.min(8_000, 250 * 2 ** broken) * (0.5 + Math.random() / 2), signal);
  }
}

async function* events(body, silence) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let timer;
  try {
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENT_S * 1_000);
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replace(/\r\n?/g, "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

/** One block of a text/event-stream; null for comments and what cannot be read. */
function parse(block) {
  const found = { event: "message", id: "", data: null };
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "event" || field === "id") found[field] = value;
  }
  if (!data.length) return null;
  try {
    found.data = JSON.parse(data.join("\n"));
  } catch {
    return null;
  }
  return found;
}

/** Resolves after `ms`; rejects with the signal's reason. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}
