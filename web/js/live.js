// What nodes would show before a run: asks the pack's route whenever the values that lead to a node have changed.
// There is no event for every way in which a value changes (typing, undo, paste, a reroute, another extension), so one
// timer compares what would be sent, for the nodes on screen only.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { request } from "./upstream.js";
import { say } from "./words.js";

const PERIOD = 200, BUSY = 4; // ms between ticks, and of one
const ROUTE = "/sampling_kit/preview";
const lives = new WeakMap(); // node -> what it does at every tick

const MOST_BYTES = 60_000, MOST_REQUESTS = 64; // of one question to the route
const waiting = []; // {text, show}: what the next question holds
let asking = false;

export async function ask(texts) {
  try {
    const response = await api.fetchApi(ROUTE, { method: "POST", headers: { "Content-Type": "application/json" }, body: `{"requests":[${texts.join(",")}]}` });
    const told = await response.json();
    return texts.map((_, i) => told.answers?.[i] ?? { error: told.error });
  } catch (error) {
    return texts.map(() => ({ error: say("the server does not answer: {}", error.message) }));
  }
}

// all that waits, in as few questions as there can be, one after the other
async function askAll() {
  if (asking) return;
  asking = true;
  await null; // the other nodes of this tick
  while (waiting.length) {
    let bytes = 0, count = 0;
    while (count < Math.min(waiting.length, MOST_REQUESTS) && (count === 0 || bytes + 4 * waiting[count].text.length < MOST_BYTES)) bytes += new Blob([waiting[count++].text]).size;
    const batch = waiting.splice(0, count), answers = await ask(batch.map((one) => one.text));
    batch.forEach((one, i) => one.show(answers[i]));
  }
  asking = false;
}

// sync() is called at every tick, show(answer) with {runs} or {plan}, {unknown}, {error}; returns check(), to ask at once
export function watch(node, sync, show) {
  let sent = null, open = false;
  function check() {
    sync();
    if (open || !node.graph) return;
    const text = JSON.stringify(request(node));
    if (text === sent) return;
    sent = text;
    open = true;
    waiting.push({ text, show(told) {
      open = false;
      if (told.later) sent = null;
      else show(told);
    } });
    askAll();
  }
  eachTick(node, check);
  return check;
}

export const eachTick = (node, act) => { lives.set(node, [...(lives.get(node) ?? []), act]); };

// Every node on the canvas in turn, as many at a tick as BUSY allows, so that a canvas of many panels stays quick.
export function start(also) {
  let next = 0;
  setInterval(() => {
    if (document.hidden) return;
    also();
    const nodes = (app.canvas?.graph?.nodes ?? []).filter((node) => lives.has(node)), begun = performance.now();
    for (let i = 0; i < nodes.length && (i === 0 || performance.now() - begun < BUSY); i++) {
      next = (next + 1) % nodes.length;
      for (const act of lives.get(nodes[next])) act();
    }
  }, PERIOD);
}
