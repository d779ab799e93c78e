// The settings of a conversation. The form of the sampling options is made of the API's own
// description, so it has each of them, with its bounds and what it does.

import { fetchJson, server } from "./api.js";
import { element } from "./render.js";
import { byId } from "./ui.js";

const NOT_SAMPLING = new Set([
  "query", "messages", "system", "context", "model", "include_reasoning",
]);

function kindOf(schema) {
  const types = (schema.anyOf ?? [schema]).filter(({ type }) => type !== "null");
  return types.find(({ type }) => type === "array") ?? types[0] ?? {};
}

// Returns the text of a value in its field.
function show(value, type) {
  if (value === undefined || value === null) return "";
  if (type === "object") return JSON.stringify(value);
  return type === "array" ? [value].flat().join("\n") : String(value);
}

// Returns the value of a text; undefined is the server's default.
function read(text, type) {
  if (!text.trim()) return undefined;
  if (type === "number" || type === "integer") return Number(text);
  if (type === "array") return text.split("\n").filter(Boolean);
  if (type !== "object") return text;
  const value = JSON.parse(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new TypeError();
  return value;
}

function makeField(name, schema, settings, onChange) {
  const kind = kindOf(schema);
  const { type, minimum, maximum } = kind;
  const isNumber = type === "number" || type === "integer";
  const attrs = { id: `option-${name}`, "aria-describedby": `hint-${name}` };
  let input;
  if (type === "boolean") input = element("input", { ...attrs, type: "checkbox" });
  else if (isNumber) {
    const step = type === "integer" ? "1" : "any";
    input = element("input", { ...attrs, type: "number", min: minimum, max: maximum, step });
  } else input = element("textarea", { ...attrs, rows: "2", spellcheck: "false" });
  const given = server.model(settings.model)?.sampling[name];
  input.placeholder = show(given, type) || (name === "seed" ? "random" : "none");
  if (type === "boolean") {
    const value = settings.options[name] ?? given;
    input.checked = Boolean(value);
    input.indeterminate = value === undefined; // the model decides
  }
  else input.value = show(settings.options[name], type);
  input.addEventListener("input", () => {
    input.setCustomValidity("");
    if (!input.checkValidity()) return input.reportValidity();
    try {
      const value = type === "boolean" ? input.checked : read(input.value, type);
      if (value === undefined) delete settings.options[name];
      else settings.options[name] = value;
      onChange();
    } catch {
      input.setCustomValidity("This is to be a JSON object.");
    }
    return undefined;
  });
  const bounds = isNumber && maximum < 1e9 ? ` From ${minimum} to ${maximum}.` : "";
  const lines = type === "array" ? " One on a line." : "";
  return element("div", { class: `option ${isNumber ? "" : "wide"}` },
    element("label", { for: attrs.id }, `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`),
    input,
    element("small", { id: `hint-${name}` }, `${schema.description ?? ""}${lines}${bounds}`));
}

let description = null; // of the fields of /token_stream

async function describe() {
  description ??= (await fetchJson("/openapi.json")).components.schemas.TokenStreamRequest.properties;
  return description;
}

// Fills the dialog. `settings` is changed in place, and `onChange` is called after each change.
export async function fillSettings(settings, onChange) {
  const system = byId("system");
  system.value = settings.system;
  system.oninput = () => {
    settings.system = system.value;
    onChange();
  };
  fillContexts(settings, onChange);
  const options = byId("options");
  const draw = (fields) => options.replaceChildren(...fields);
  byId("reset").onclick = () => {
    Object.assign(settings, { system: "", context: null, options: {} });
    onChange();
    fillSettings(settings, onChange);
  };
  try {
    const fields = Object.entries(await describe()).filter(([name]) => !NOT_SAMPLING.has(name));
    draw(fields.map(([name, schema]) => makeField(name, schema, settings, onChange)));
  } catch (error) {
    draw([element("p", { class: "error" }, `The options cannot be read: ${error.message}`)]);
  }
}

function fillContexts(settings, onChange) {
  const contexts = server.status?.contexts ?? [];
  const select = byId("context");
  byId("context-row").hidden = !contexts.length;
  select.replaceChildren(element("option", { value: "" }, "the message below"),
    ...contexts.map((name) => element("option", { value: name }, name)));
  select.value = settings.context ?? "";
  byId("system").disabled = Boolean(select.value);
  select.onchange = () => {
    settings.context = select.value || null;
    byId("system").disabled = Boolean(select.value);
    onChange();
  };
}

// Returns how many settings differ from the server's.
export function countChanged({ system, context, options }) {
  return Object.keys(options).length + Boolean(context || system.trim());
}
