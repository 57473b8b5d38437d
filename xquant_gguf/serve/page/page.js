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
async function ask() {
  for (;;) {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages: messages.slice(seen), stream: true }),
      signal: running.signal,
    });
    if (response.ok) return response;
    const { error } = await response.json();
    if (error.type !== "exceed_context_size_error" || seen + 2 >= messages.length) throw new Error(error.message);
    seen += 2;
    at("left-out")?.remove();
    const note = show("note", `The oldest ${seen === 2 ? "turn" : `${seen / 2} turns`} no longer fit: the model does not see them.`);
    note.id = "left-out";
    [...at("chat").querySelectorAll(".user")].at(-1).before(note);
  }
}

async function reply() {
  running = new AbortController();
  state();
  let element = null;
  let content = "", thinking = null;
  try {
    const response = await ask();
    element = show("assistant", "");
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta ?? {};
      if (delta.reasoning_content) {
        thinking ??= thoughts(element);
        thinking.textContent += delta.reasoning_content;
      }
      content += delta.content ?? "";
      const chat = at("chat"), low = chat.scrollHeight - chat.scrollTop - chat.clientHeight < 80;
      element.textContent = content;
      if (low) chat.scrollTop = chat.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") show("error", `The reply failed: ${error.message}`);
  }
  if (content) messages.push({ role: "assistant", content });
  else element?.remove();
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
  messages.length = seen = 0;
  at("chat").replaceChildren();
  state();
});

fetch("v1/models").then(async (response) => {
  at("model").textContent = (await response.json()).data[0].id;
});
figures();
