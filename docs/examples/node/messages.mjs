// npm install && node messages.mjs     (MOODQ_REDIS_URL names the Redis)

import { Moodq } from "./moodq.mjs";

const moodq = await Moodq.connect();

// Somebody waits: the label comes first, then the reply as it is written.
const id = await moodq.submit("今天的实验终于成功了，太棒了！", { tasks: ["sentiment", "reply"] });
for await (const [event, data] of moodq.stream(id)) {
  if (event === "label") console.log("label:", data.sentiment.label);
  if (event === "token") process.stdout.write(data.text);
}
console.log();

const result = await moodq.wait(await moodq.submit("My order is late again.", { id: "message-1", lang: "en" }));
console.log(result.results.sentiment.label, result.results.sentiment.probability);

// Nobody waits: many in one job. A text that is refused fails alone.
for (const each of await moodq.submitMany(["谢谢，已经收到了", "   ", "so bad"])) {
  const { status, results, error } = await moodq.wait(each);
  console.log(status === "done" ? results.sentiment.label : error.code);
}

const unwanted = await moodq.submit("No need to answer", { tasks: ["reply"] });
console.log("cancelled:", await moodq.cancel(unwanted));
await moodq.close();
