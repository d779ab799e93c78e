// The state of the server, as the page shows it.

import { server } from "./api.js";
import { byId, element } from "./dom.js";

const STATES = {
  unknown: "Connecting", ready: "Ready", idle: "Ready", loading: "Loading", down: "Not reachable",
  locked: "Needs a key", restarting: "Restarting", failed: "Failed", draining: "Shutting down",
};

// Shows the state of the server, and of the model of that name.
export function showServer(name) {
  const { status, state, reason, isGood } = server;
  const model = server.model(name);
  const isBusy = isGood && model?.waiting > 0;
  byId("state").dataset.state = isBusy ? "busy" : state;
  byId("state").lastChild.textContent = isBusy ? `Busy, ${model.waiting} waiting` : STATES[state];
  const isCalm = isGood || state === "locked" || state === "unknown";
  const what = state === "down" ? reason : `${STATES[state]}: ${reason}`;
  const text = isCalm ? "" : `${what}. This page goes on by itself when it can.`;
  if (byId("banner").textContent !== text) byId("banner").textContent = text;
  byId("banner").hidden = !text;
  if (!model) return;
  byId("model").hidden = false;
  byId("model").title = `context of ${model.ctx_size} tokens`;
  byId("model").replaceChildren(...status.models.map((one) =>
    element("option", { value: one.name }, one.state === "ready" ? one.name : `${one.name} (${one.state})`)));
  byId("model").value = model.name;
}
