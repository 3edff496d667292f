/** What people read for an error: a sentence of the page by its code, else what the service says. */

import { number } from "./i18n.js";
import { WORDS } from "./words.js";

/** `[key, params]` for `say`. `error`: an `ApiError`, or the `error` of a failed result. */
export function sentence(error) {
  const { code, detail = error.message ?? "", limit, retryAfter } = error;
  if (code === "text_too_long") {
    return Number.isFinite(limit)
      ? ["error.text_too_long", { limit: () => number(limit) }]
      : ["error.text_too_long_some", {}];
  }
  if (code === "rate_limited") return ["error.rate_limited", { seconds: Math.ceil(retryAfter ?? 1) }];
  if (code === "no_such_result" || code === "no_such_job") return ["error.not_found", {}];
  const key = `error.${code}`;
  return WORDS[key] ? [key, {}] : ["error.other", { code, detail }];
}
