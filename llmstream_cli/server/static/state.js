// The state of the server, as the page shows it.

import { server } from "./api.js";
import { element } from "./render.js";
import { byId } from "./ui.js";

const STATES = {
  unknown: "Connecting", ready: "Ready", idle: "Ready", loading: "Loading", down: "Not reachable",
  locked: "Needs a key", restarting: "Restarting", failed: "Failed", draining: "Shutting down",
};

// Shows the state of the server, and of the model of that name.
export function showServer(name) {
  const { status, state, reason } = server;
  const model = server.model(name);
  const isBusy = server.isGood && model?.waiting > 0;
  byId("state").dataset.state = isBusy ? "busy" : state;
  byId("state").title = [model?.name, model?.ctx_size && `context of ${model.ctx_size} tokens`, reason]
    .filter(Boolean).join(", ");
  byId("state").lastChild.textContent = isBusy ? `Busy, ${model.waiting} waiting` : (STATES[state] ?? state);
  const isCalm = server.isGood || state === "locked" || state === "unknown";
  const what = state === "down" ? reason : `${STATES[state] ?? state}: ${reason || "not ready"}`;
  const text = isCalm ? "" : `${what}. This page goes on by itself when it can.`;
  if (byId("banner").textContent !== text) byId("banner").textContent = text;
  byId("banner").hidden = !text;
  if (!status) return;
  byId("version").textContent = `llmstream ${status.version}`;
  showModels(status.models, model);
  if (byId("welcome") && model) byId("welcome").firstChild.textContent = `Ask ${model.name}`;
}

function showModels(models, chosen) {
  const select = byId("model");
  select.hidden = models.length < 2;
  byId("name").textContent = select.hidden ? chosen.name : "";
  const labels = models.map(({ name, state }) => (state === "ready" ? name : `${name} (${state})`));
  if (select.dataset.labels !== labels.join()) {
    select.dataset.labels = labels.join();
    select.replaceChildren(...labels.map((label, place) =>
      element("option", { value: models[place].name }, label)));
  }
  select.value = chosen.name;
}
