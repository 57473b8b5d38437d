// The page of `xquant serve`: one chat, kept in this tab alone. Plain text in, plain text out: nothing that a model writes
// becomes markup.
"use strict";

const at = (id) => document.getElementById(id);
const messages = []; // {role, content}, as the server's protocol has them
let seen = 0; // index of the oldest message that the model is given
let running = null; // AbortController of the reply that is being written

function show(role, text) {
  const element = document.createElement("article");
  element.className = role;
  element.textContent = text;
  at("chat").append(element);
  element.scrollIntoView({ block: "end" });
  return element;
}

function state() {
  at("send").textContent = running ? "Stop" : "Send";
  at("again").disabled = running !== null || messages.at(-1)?.role !== "assistant";
}

// The thoughts of models that have them, folded above the reply.
function thoughts(before) {
  const details = document.createElement("details");
  details.append(Object.assign(document.createElement("summary"), { textContent: "Thoughts" }));
  const text = document.createElement("div");
  details.append(text);
  before.before(details);
  return text;
}

// What models write between <think> and </think> where the server leaves it in the text; the end may still be to come.
function parted(text) {
  const [, inside, rest] = /^\s*<think>([^]*?)(?:<\/think>\s*([^]*))?$/.exec(text) ?? [null, null, text];
  return { thought: inside?.trim() ?? "", said: rest ?? "" };
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

// Asks for a reply. When the chat is longer than the context, the oldest turns are left out, and that is said.
async function ask(signal) {
  for (let from = seen; ; from += 2) {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages: messages.slice(from), stream: true }),
      signal,
    });
    if (response.ok) {
      if (from > seen) leaveOut(from);
      return response;
    }
    const { error } = await response.json();
    if (error.type !== "exceed_context_size_error" || from + 2 >= messages.length) throw new Error(error.message);
  }
}

function leaveOut(from) {
  seen = from;
  at("left-out")?.remove();
  const note = show("note", `The oldest ${seen === 2 ? "turn" : `${seen / 2} turns`} no longer fit: the model does not see them.`);
  note.id = "left-out";
  [...at("chat").querySelectorAll(".user")].at(-1).before(note);
}

// A message without a reply is no part of the chat, where it would stand before the next one (and, if it is too long, would
// make that fail as well): it goes back into the box, to be changed or sent again.
function takeBack() {
  const { content } = messages.pop();
  at("text").value ||= content;
  [...at("chat").querySelectorAll(".user")].at(-1).className = "unsent";
}

async function reply() {
  const mine = running = new AbortController();
  state();
  let element = null, thinking = null;
  let written = "", reasoning = "", content = "", failed = "The model said nothing.";
  try {
    const response = await ask(mine.signal);
    element = show("assistant", "");
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta ?? {};
      reasoning += delta.reasoning_content ?? "";
      written += delta.content ?? "";
      const { thought, said } = parted(written);
      content = said;
      const chat = at("chat"), low = chat.scrollHeight - chat.scrollTop - chat.clientHeight < 80;
      if (reasoning || thought) (thinking ??= thoughts(element)).textContent = reasoning + thought;
      element.textContent = content;
      if (low) chat.scrollTop = chat.scrollHeight;
    }
    if (content) failed = "";
  } catch (error) {
    failed = error.name === "AbortError" ? "" : `The reply failed: ${error.message}`;
  }
  if (running !== mine) return; // a new chat was begun
  if (content) messages.push({ role: "assistant", content });
  else {
    element?.remove();
    takeBack();
  }
  if (failed) show("error", failed);
  running = null;
  state();
  figures();
}

async function figures() {
  try {
    const rows = (await (await fetch("metrics")).text()).matchAll(/^xquant:(\w+) (\S+)$/gm);
    const told = Object.fromEntries([...rows].map(([, name, value]) => [name, Number(value)]));
    const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    if (!told.kv_bytes) return;
    at("figures").textContent = told.kv_true_bits
      ? `KV cache ${mib(told.kv_bytes)}, f16 would be ${mib(told.kv_f16_bytes)}; ${told.kv_true_bits.toFixed(2)} true bits; ` +
        `${told.kv_tokens} of ${told.kv_tokens_max} tokens`
      : `KV cache ${mib(told.kv_bytes)}`;
  } catch { /* the page chats without figures as well */ }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const content = at("text").value.trim();
  if (!content) return;
  at("text").value = "";
  messages.push({ role: "user", content });
  show("user", content);
  reply();
});

at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) at("form").requestSubmit();
  }
});

at("again").addEventListener("click", () => {
  messages.pop();
  while (at("chat").lastElementChild?.className !== "user") at("chat").lastElementChild.remove();
  reply();
});

at("new").addEventListener("click", () => {
  running?.abort();
  running = null;
  messages.length = seen = 0;
  at("chat").replaceChildren();
  state();
});

fetch("v1/models").then(async (response) => {
  at("model").textContent = (await response.json()).data[0].id;
});
figures();
