/** What the browser keeps for this page. A browser that keeps nothing is no error: it forgets at a reload. */

const PREFIX = "moodq.";

function place(kind) {
  const memory = new Map();
  const area = () => (kind === "local" ? window.localStorage : window.sessionStorage);
  return {
    get(name) {
      try {
        return area().getItem(PREFIX + name);
      } catch {
        return memory.get(name) ?? null;
      }
    },
    set(name, value) {
      try {
        if (value === null) area().removeItem(PREFIX + name);
        else area().setItem(PREFIX + name, value);
      } catch {
        memory.set(name, value);
      }
    },
  };
}

/** Until the browser's data is cleared: language, theme. */
export const lasting = place("local");

/** Until the tab is closed: the API key, the conversation. */
export const session = place("session");

/** `bytes` random bytes in hexadecimal; also where `crypto.randomUUID` is not (pages served without TLS). */
export function randomId(bytes = 8) {
  const found = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
