/** How tasks and labels are called here, with the face and the tone of each. What is not listed, as the tasks
 * of an own tasks file, keeps the name that the service gives it. */

import { language } from "./i18n.js";

// label: [Chinese, English, face, tone]; tones colour bars and chips, and never say anything alone.
const COMMON = {
  positive: ["正面", "positive", "😊", "good"],
  negative: ["负面", "negative", "😟", "bad"],
  neutral: ["中性", "neutral", "😐", "calm"],
  very_positive: ["非常正面", "very positive", "😄", "great"],
  very_negative: ["非常负面", "very negative", "😡", "awful"],
  uncertain: ["不确定", "uncertain", "🤔", "calm"],
  help: ["求助", "help", "🙋", "warm"],
  confide: ["倾诉", "confiding", "💬", "violet"],
  chat: ["闲聊", "chat", "👋", "calm"],
  question: ["提问", "question", "❓", "blue"],
  joy: ["快乐", "joy", "😊", "good"],
  anger: ["愤怒", "anger", "😠", "awful"],
  sadness: ["悲伤", "sadness", "😢", "blue"],
  anxiety: ["焦虑", "anxiety", "😰", "warm"],
  calm: ["平静", "calm", "😌", "calm"],
  excitement: ["兴奋", "excitement", "🤩", "violet"],
  high: ["马上", "now", "🔥", "bad"],
  medium: ["尽快", "soon", "⏳", "warm"],
  low: ["不急", "can wait", "🌿", "good"],
  delivery: ["物流", "delivery", "🚚", "blue"],
  quality: ["质量", "quality", "🔍", "violet"],
  price: ["价格", "price", "💰", "warm"],
  service: ["服务", "service", "🎧", "good"],
  debug: ["调试", "debug", "🐛", "calm"],
  info: ["信息", "info", "📄", "blue"],
  warning: ["警告", "warning", "⚠️", "warm"],
  error: ["错误", "error", "❌", "bad"],
  critical: ["严重", "critical", "🚨", "awful"],
  yes: ["是", "yes", "✅", "good"],
  no: ["否", "no", "➖", "calm"],
};

const TASKS = {
  sentiment: ["情感", "Sentiment"],
  reply: ["回复", "Reply"],
  sentiment3: ["情感（三档）", "Sentiment, 3 steps"],
  sentiment5: ["情感（五档）", "Sentiment, 5 steps"],
  intent: ["意图", "Intent"],
  emotion: ["情绪", "Emotion"],
  urgency: ["紧急程度", "Urgency"],
  topic: ["主题", "Topic"],
  aspects: ["方面", "Aspects"],
  summary: ["摘要", "Summary"],
  keywords: ["关键词", "Keywords"],
  style: ["润色", "Polite wording"],
  translate: ["翻译", "Translation"],
  log_severity: ["日志级别", "Log severity"],
  needs_attention: ["需要关注", "Needs attention"],
  rerank: ["相关排序", "Ranking"],
};

const FURTHER_TONES = ["blue", "warm", "violet", "good", "calm", "bad"];

const column = () => (language() === "zh" ? 0 : 1);

/** What people call the task. */
export function taskName(task) {
  const name = typeof task === "string" ? task : task.name;
  return TASKS[name]?.[column()] ?? (typeof task === "string" ? name : task.title || name).replaceAll("_", " ");
}

export const labelName = (label) => COMMON[label]?.[column()] ?? label.replaceAll("_", " ");

export const labelFace = (label) => COMMON[label]?.[2] ?? "🏷️";

/** The tone of a label; `place` is its number among its task's labels, for labels of unknown meaning. */
export const labelTone = (label, place = 0) => COMMON[label]?.[3] ?? FURTHER_TONES[place % FURTHER_TONES.length];

/** The names of a task's labels, however the service tells them. */
export const labelsOf = (task) => (task?.labels ?? []).map((label) => label.name ?? label);
