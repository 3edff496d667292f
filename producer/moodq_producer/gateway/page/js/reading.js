/** Texts from what was pasted or dropped: plain lines, CSV, or one JSON object a line. Pure, but for files. */

/** What the page takes; more is for `moodq tag`. */
export const MAX_TEXTS = 20_000;
export const MAX_FILE_MB = 20;

const TEXT_COLUMNS = ["text", "review", "content", "comment", "message", "body", "sentence", "文本", "内容", "评论", "消息", "正文"];

/** Why something cannot be read, as `[key, params]` for `say`. */
export class Unreadable extends Error {
  constructor(key, params = {}) {
    super(key);
    this.sentence = [key, params];
  }
}

/** `{columns, column, rows}`: `rows` are the fields of each text by `columns`; `column` holds the texts. */
export function readTexts(content, name = "") {
  const text = content.replace(/^\uFEFF/, "");
  const kind = kindOf(text, name);
  if (kind === "jsonl") return fromObjects(jsonLines(text));
  if (kind === "csv") return fromCsv(text);
  return { columns: ["text"], column: "text", rows: plainLines(text).map((line) => ({ text: line })) };
}

/** The file's text: UTF-8, else the encoding of Chinese spreadsheets. */
export async function readFile(file) {
  const limit = MAX_FILE_MB * 1_000_000;
  if (file.size > limit) throw new Unreadable("lines.too_big", { n: Math.ceil(file.size / 1_000_000), limit: MAX_FILE_MB });
  const bytes = await file.arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("gb18030").decode(bytes);
  }
}

/** The texts of `read` that are not blank, each with the number of its row, from 1. */
export function textsOf({ rows, column }) {
  return rows.map((row, n) => ({ line: n + 1, text: plainText(row[column]), row })).filter(({ text }) => text.trim());
}

function kindOf(text, name) {
  if (/\.(jsonl|ndjson)$/i.test(name)) return "jsonl";
  if (/\.(csv|tsv)$/i.test(name)) return "csv";
  // Pasted: objects are told by their first line; a comma in a sentence makes no table.
  if (!name && isObject(text.trimStart().split("\n", 1)[0])) return "jsonl";
  return "plain";
}

function isObject(line) {
  try {
    const found = JSON.parse(line);
    return typeof found === "object" && found !== null && !Array.isArray(found);
  } catch {
    return false;
  }
}

const plainLines = (text) => text.split(/\r\n|\n|\r/).filter((line) => line.trim());

function jsonLines(text) {
  const objects = [];
  for (const [n, line] of text.split(/\r\n|\n|\r/).entries()) {
    if (!line.trim()) continue;
    if (!isObject(line)) throw new Unreadable("lines.broken", { line: n + 1 });
    objects.push(JSON.parse(line));
  }
  return objects;
}

function fromObjects(objects) {
  const columns = [...new Set(objects.flatMap((object) => Object.keys(object)))];
  return { columns, column: textColumn(columns, objects), rows: objects };
}

function fromCsv(text) {
  const [header = [], ...records] = parseCsv(text, separatorOf(text));
  const columns = header.map((name, n) => name.trim() || `column ${n + 1}`);
  const rows = records.map((record) => Object.fromEntries(columns.map((name, n) => [name, record[n] ?? ""])));
  return { columns, column: textColumn(columns, rows), rows };
}

/** The column called like a text, else the one with the longest values. */
function textColumn(columns, rows) {
  const named = TEXT_COLUMNS.find((name) => columns.some((column) => column.toLowerCase() === name));
  if (named) return columns.find((column) => column.toLowerCase() === named);
  const sample = rows.slice(0, 50);
  const length = (column) => sample.reduce((sum, row) => sum + plainText(row[column]).length, 0);
  return columns.reduce((best, column) => (length(column) > length(best) ? column : best), columns[0]);
}

const plainText = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value));

function separatorOf(text) {
  const header = text.split("\n", 1)[0];
  const count = (separator) => header.split(separator).length;
  return [",", "\t", ";"].reduce((best, one) => (count(one) > count(best) ? one : best));
}

/** RFC 4180: quoted fields may hold separators, quotes (twice) and line ends. Blank lines are passed over. */
export function parseCsv(text, separator = ",") {
  const records = [];
  let record = [];
  let field = "";
  let quoted = false;
  const endRecord = () => {
    record.push(field);
    if (record.length > 1 || record[0] !== "") records.push(record);
    record = [];
    field = "";
  };
  for (let n = 0; n < text.length; n++) {
    const char = text[n];
    if (quoted) {
      if (char !== '"') field += char;
      else if (text[n + 1] === '"') field += text[n++];
      else quoted = false;
    } else if (char === '"' && field === "") {
      quoted = true;
    } else if (char === separator) {
      record.push(field);
      field = "";
    } else if (char === "\n" || char === "\r") {
      if (char === "\r" && text[n + 1] === "\n") n++;
      endRecord();
    } else {
      field += char;
    }
  }
  if (field !== "" || record.length) endRecord();
  return records;
}
