/** The conversation of this tab: its id, what was said before a reload, and a person who takes over. */

import { ApiError, call } from "./api.js";
import { $ } from "./dom.js";
import { say } from "./i18n.js";
import { randomId, session } from "./store.js";

/** The id of this tab's conversation. */
export function conversationId() {
  let id = session.get("conversation");
  if (!id) {
    id = `web-${randomId(6)}`;
    session.set("conversation", id);
  }
  return id;
}

/** Whether this tab has spoken before, so that there may be something to read. */
export const isOld = () => session.get("conversation") !== null;

export function newConversation() {
  session.set("conversation", null);
  handedOver(null);
  tell();
}

export function tell() {
  say($("conversation"), "conversation.id", { id: conversationId().slice(-6) });
}

/** `{turns, taken_over}` as the service has it; null where it knows of none. */
export async function readConversation() {
  try {
    return await call("GET", `v1/conversations/${encodeURIComponent(conversationId())}`);
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}

/** Says above the thread that a person has it: `{by}`, `{}` when only routed, null for nobody. */
export function handedOver(state) {
  $("person").hidden = !state;
  if (!state) return;
  if (!("by" in state)) say($("person"), "person.routed");
  else say($("person"), "person.taken", { by: state.by || "—" });
}
