// What nodes would show before a run: asks the pack's route whenever the values that lead to a node have changed.
// There is no event for every way in which a value changes (typing, undo, paste, a reroute, another extension), so one
// timer compares what would be sent, for the nodes on screen only.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { request } from "./upstream.js";
import { say } from "./words.js";

const PERIOD = 200; // ms
const ROUTE = "/sampling_kit/preview";
const lives = new WeakMap(); // node -> what it does at every tick

async function ask(text) {
  try {
    const response = await api.fetchApi(ROUTE, { method: "POST", headers: { "Content-Type": "application/json" }, body: text });
    return await response.json();
  } catch (error) {
    return { error: say("the server does not answer: {}", error.message) };
  }
}

// sync() is called at every tick, show(answer) with {runs} or {plan}, {unknown}, {error}; returns check(), to ask at once
export function watch(node, sync, show) {
  let sent = null, waiting = false;
  async function check() {
    sync();
    if (waiting || !node.graph) return;
    const text = JSON.stringify(request(node));
    if (text === sent) return;
    sent = text;
    waiting = true;
    const told = await ask(text);
    waiting = false;
    show(told);
  }
  eachTick(node, check);
  return check;
}

export const eachTick = (node, act) => { lives.set(node, [...(lives.get(node) ?? []), act]); };

export function start(also) {
  setInterval(() => {
    if (document.hidden) return;
    also();
    for (const node of app.canvas?.graph?.nodes ?? []) for (const act of lives.get(node) ?? []) act();
  }, PERIOD);
}
