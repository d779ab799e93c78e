// The settings dialog; its sampling options are made of the API's own description of itself.

import { fetchJson, server } from "./api.js";
import { byId, element } from "./dom.js";

const NOT_SAMPLING = new Set(
  ["query", "messages", "system", "context", "model", "include_reasoning", "resume"]);

function kindOf(schema) {
  const types = (schema.anyOf ?? [schema]).filter(({ type }) => type !== "null");
  return types.find(({ type }) => type === "array") ?? types[0] ?? {};
}

function show(value, type) {
  if (value === undefined || value === null) return "";
  return type === "object" ? JSON.stringify(value) : [value].flat().join("\n");
}

// Returns the value of a text; undefined is the server's default.
function read(text, type) {
  if (!text.trim()) return undefined;
  if (type === "number" || type === "integer") return Number(text);
  if (type === "array") return text.split("\n").filter(Boolean);
  if (type !== "object") return text;
  const value = JSON.parse(text);
  if (!value || value.constructor !== Object) throw new TypeError();
  return value;
}

function makeInput(attrs, { type, minimum: min, maximum: max }) {
  if (type === "boolean") return element("input", { ...attrs, type: "checkbox" });
  if (type === "integer") return element("input", { ...attrs, type: "number", min, max });
  if (type === "number") return element("input", { ...attrs, type, min, max, step: "any" });
  return element("textarea", { ...attrs, rows: 2 });
}

function makeField(name, schema, settings, onChange) {
  const kind = kindOf(schema);
  const { type, minimum, maximum } = kind;
  const input = makeInput({ id: `option-${name}`, "aria-describedby": `hint-${name}` }, kind);
  const given = server.model(settings.model)?.sampling[name];
  input.placeholder = show(given, type) || (name === "seed" ? "random" : "none");
  if (type === "boolean") input.checked = Boolean(settings.options[name] ?? given);
  else input.value = show(settings.options[name], type);
  input.addEventListener("input", () => {
    input.setCustomValidity("");
    if (!input.reportValidity()) return;
    try {
      settings.options[name] = type === "boolean" ? input.checked : read(input.value, type);
      if (settings.options[name] === undefined) delete settings.options[name];
      onChange();
    } catch {
      input.setCustomValidity("This is to be a JSON object.");
    }
  });
  const bounds = maximum < 1e9 ? `From ${minimum} to ${maximum}.` : "";
  const [first, ...rest] = schema.description ?? "";
  const said = first && `${first.toUpperCase()}${rest.join("")}.`;
  const hint = [said, type === "array" && "One on a line.", bounds].filter(Boolean).join(" ");
  return element("div", { class: "option" },
    element("label", { for: input.id }, name[0].toUpperCase() + name.slice(1).replaceAll("_", " ")),
    input,
    element("small", { id: `hint-${name}` }, hint));
}

// Fills the dialog. Each change is made in `settings`, before `onChange` is called.
export async function fillSettings(settings, onChange) {
  const [system, context, options] = ["system", "context", "options"].map(byId);
  const contexts = server.status?.contexts ?? [];
  system.value = settings.system;
  system.disabled = Boolean(settings.context); // the API takes one of them
  system.oninput = () => {
    settings.system = system.value;
    onChange();
  };
  context.parentElement.hidden = !contexts.length;
  context.replaceChildren(element("option", { value: "" }, "the message below"),
    ...contexts.map((name) => element("option", { value: name }, name)));
  context.value = settings.context ?? "";
  context.onchange = () => {
    settings.context = context.value || null;
    system.disabled = Boolean(context.value);
    onChange();
  };
  byId("reset").onclick = () => {
    Object.assign(settings, { system: "", context: null, options: {} });
    onChange();
    fillSettings(settings, onChange);
  };
  try {
    const { properties } = (await fetchJson("/openapi.json")).components.schemas.TokenStreamRequest;
    const names = Object.keys(properties).filter((name) => !NOT_SAMPLING.has(name));
    options.replaceChildren(
      ...names.map((name) => makeField(name, properties[name], settings, onChange)));
  } catch (error) {
    options.replaceChildren(`The options cannot be read: ${error.message}`);
  }
}

export function countChanged({ system, context, options }) {
  return Object.keys(options).length + Boolean(context || system.trim());
}
