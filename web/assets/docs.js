// The API reference: /openapi.json made readable. Everything in it is shown as text.

import { ROOT, byId, h, session, setText, themeButton } from "./base.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const DEPTH_MAX = 7;

themeButton(byId("theme"));
byId("token").value = session.token ?? "";
byId("token").addEventListener("change", () => {
  session.token = byId("token").value.trim() || null;
});

let root = {};

/** Follows references within the document. */
function resolve(value, hops = 0) {
  if (!value?.$ref || hops > 16) return value ?? {};
  if (!value.$ref.startsWith("#/")) return {};
  let found = root;
  for (const part of value.$ref.slice(2).split("/")) {
    found = found?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
  }
  const { $ref, ...rest } = value;
  return { ...resolve(found, hops + 1), ...rest };
}

/** A schema with its parts merged. */
function whole(schema) {
  const own = resolve(schema);
  if (!own.allOf) return own;
  const { allOf, ...rest } = own;
  const parts = [...allOf.map(whole), rest];
  const merged = Object.assign({}, ...parts);
  merged.properties = Object.assign({}, ...parts.map((part) => part.properties));
  merged.required = parts.flatMap((part) => part.required ?? []);
  return merged;
}

const nameOf = (schema) => schema?.$ref?.split("/").at(-1);

function typeOf(schema) {
  const own = whole(schema);
  const options = own.oneOf ?? own.anyOf;
  if (options) return options.map(typeOf).join(" | ");
  if (own.const !== undefined) return JSON.stringify(own.const);
  if (own.enum) return own.enum.map((one) => JSON.stringify(one)).join(" | ");
  let type = Array.isArray(own.type) ? own.type.join(" | ") : own.type;
  if (!type) type = own.properties ? "object" : own.items ? "array" : "any";
  if (type === "array") return `${nameOf(own.items) ?? typeOf(own.items)}[]`;
  if (type === "object" && nameOf(schema)) return nameOf(schema);
  return own.format ? `${type} (${own.format})` : type;
}

function limits(schema) {
  const parts = [];
  const add = (name, text) => schema[name] !== undefined && parts.push(`${text} ${schema[name]}`);
  add("minimum", "at least");
  add("maximum", "at most");
  add("minLength", "length at least");
  add("maxLength", "length at most");
  add("minItems", "items at least");
  add("maxItems", "items at most");
  add("pattern", "pattern");
  if (schema.default !== undefined) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

/** An example that fits a schema. */
function example(schema, depth = 0, seen = []) {
  const name = nameOf(schema);
  const own = whole(schema);
  if (own.example !== undefined) return own.example;
  if (own.examples?.[0] !== undefined) return own.examples[0];
  if (own.default !== undefined) return own.default;
  if (own.const !== undefined) return own.const;
  if (own.enum) return own.enum[0];
  const options = own.oneOf ?? own.anyOf;
  if (options) return example(options[0], depth + 1, seen);
  if (depth > DEPTH_MAX || seen.includes(name)) return null;
  const path = name ? [...seen, name] : seen;
  const type = Array.isArray(own.type) ? own.type.find((one) => one !== "null") : own.type;
  if (own.properties || type === "object") {
    const value = {};
    for (const [key, part] of Object.entries(own.properties ?? {})) {
      value[key] = example(part, depth + 1, path);
    }
    const extra = own.additionalProperties;
    if (extra && typeof extra === "object") value.name = example(extra, depth + 1, path);
    return value;
  }
  if (type === "array") return own.items ? [example(own.items, depth + 1, path)] : [];
  if (type === "integer" || type === "number") return own.minimum ?? 0;
  if (type === "boolean") return false;
  if (type === "null" || !type) return null;
  if (own.format === "date-time") return "2026-11-20T12:00:00.123Z";
  if (own.format === "uuid") return "01a1fddb-0000-7000-8000-000000000000";
  return "string";
}

/** Text with `code` in it, in paragraphs. */
function prose(text, tag = "div") {
  const node = h(tag, { class: "prose" });
  for (const paragraph of String(text).split(/\n\s*\n/)) {
    const parts = paragraph.split("\u0060");
    node.append(h("p", {}, parts.map((text, at) => (at % 2 ? h("code", { text }) : text))));
  }
  return node;
}

/** The fields of a schema as a list, nested ones included. */
function tree(schema, depth = 0, seen = []) {
  const name = nameOf(schema);
  const own = whole(schema);
  if (depth > DEPTH_MAX || (name && seen.includes(name))) return null;
  const path = name ? [...seen, name] : seen;
  const options = own.oneOf ?? own.anyOf;
  if (options) {
    const inner = options.map((option, at) => {
      const fields = tree(option, depth + 1, path);
      const name = h("b", { text: nameOf(option) ?? `Form ${at + 1}` });
      return fields && h("li", {}, h("div", { class: "line" }, name), fields);
    }).filter(Boolean);
    return inner.length > 0 ? h("ul", { class: "fields-tree" }, inner) : null;
  }
  if (own.items) return tree(own.items, depth + 1, path);
  const fields = Object.entries(own.properties ?? {});
  if (own.additionalProperties && typeof own.additionalProperties === "object") {
    fields.push(["(any name)", own.additionalProperties]);
  }
  if (fields.length === 0) return null;
  return h("ul", { class: "fields-tree" }, fields.map(([key, part]) => {
    const inner = whole(part);
    const type = h("span", { class: "type", text: typeOf(part) });
    const line = h("div", { class: "line" }, h("code", { text: key }), type);
    if (own.required?.includes(key)) line.append(h("span", { class: "need", text: "required" }));
    const note = [inner.description, limits(inner)].filter(Boolean).join(" - ");
    if (note) line.append(h("span", { class: "note", text: note }));
    return h("li", {}, line, tree(part, depth + 1, path));
  }));
}

function content(value) {
  const [type, media] = Object.entries(value.content ?? {})[0] ?? [];
  if (!media) return null;
  const given = media.example ?? resolve(Object.values(media.examples ?? {})[0])?.value;
  const shown = given ?? (media.schema ? example(media.schema) : null);
  const text = typeof shown === "string" ? shown : JSON.stringify(shown, null, 2);
  const fields = media.schema ? tree(media.schema) : null;
  const title = `${type}: ${media.schema ? typeOf(media.schema) : "any"}`;
  const left = h("div", {}, h("h4", { text: title }), fields);
  if (shown === null) return left;
  const box = h("pre", { tabindex: "0", "aria-label": "Example" }, h("code", { text }));
  const right = h("div", {}, h("h4", { text: "Example" }), box);
  return h("div", { class: "two" }, left, right);
}

function parameterTable(parameters) {
  const head = ["Name", "In", "Type", "Meaning"].map((text) => h("th", { scope: "col", text }));
  const rows = parameters.map((one) => {
    const meaning = [one.description, limits(whole(one.schema))].filter(Boolean).join(" - ");
    const need = one.required ? h("span", { class: "need", text: " required" }) : null;
    return h(
      "tr", {},
      h("td", {}, h("code", { text: one.name }), need),
      h("td", { text: one.in }), h("td", { text: typeOf(one.schema) }), h("td", { text: meaning }),
    );
  });
  const table = h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
  return h("div", { class: "wide" }, table);
}

function trial(operation) {
  const asked = operation.parameters.filter((one) => one.in === "path" || one.in === "query");
  const inputs = asked.map((one) => {
    const value = one.example ?? whole(one.schema).example ?? "";
    const required = one.required || one.in === "path";
    const input = h("input", { name: one.name, required, value, autocomplete: "off" });
    return h("label", {}, `${one.name} `, input);
  });
  const status = h("p", { class: "status", role: "status" });
  const output = h("pre", { tabindex: "0", "aria-label": "Answer", hidden: true });
  const send = h("button", { class: "primary", text: "Send" });
  const form = h(
    "form", { class: "trial" }, h("h4", { text: "Try it" }),
    h("div", { class: "inputs" }, inputs, send), status, output,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let { path } = operation;
    const query = new URLSearchParams();
    for (const one of asked) {
      const { value } = form.elements.namedItem(one.name);
      if (one.in === "path") path = path.replace(`{${one.name}}`, encodeURIComponent(value));
      else if (value !== "") query.append(one.name, value);
    }
    const tail = query.size > 0 ? `?${query}` : "";
    const headers = session.token ? { authorization: `Bearer ${session.token}` } : {};
    const began = performance.now();
    try {
      const answer = await fetch(ROOT + path.slice(1) + tail, { headers });
      let text = await answer.text();
      const took = Math.round(performance.now() - began);
      try {
        text = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // Not everything is JSON.
      }
      status.className = `status ${answer.ok ? "good" : "bad"}`;
      setText(status, `${answer.status} ${answer.statusText}, ${took} ms`);
      setText(output, text.length > 100_000 ? `${text.slice(0, 100_000)}\n...` : text);
      output.hidden = text === "";
    } catch {
      status.className = "status bad";
      setText(status, "The server cannot be reached.");
    }
  });
  return form;
}

function fillBody(body, operation) {
  const { spec, method, parameters } = operation;
  const part = (title, ...inner) => body.append(h("section", {}, h("h4", { text: title }), inner));
  if (spec.description) body.append(prose(spec.description));
  if (spec.deprecated) body.append(h("p", { class: "badge warn", text: "deprecated" }));
  if (parameters.length > 0) part("Parameters", parameterTable(parameters));
  if (spec.requestBody) {
    const request = resolve(spec.requestBody);
    part(request.required ? "Request body, required" : "Request body", content(request));
  }
  const responses = Object.entries(spec.responses ?? {}).map(([code, value], at) => {
    const response = resolve(value);
    const tone = { 2: "good", 4: "bad", 5: "bad" }[code[0]] ?? "";
    const inner = content(response);
    const about = h("span", { class: "muted", text: response.description ?? "" });
    const line = [h("span", { class: `badge ${tone}`, text: code }), " ", about];
    if (!inner) return h("p", {}, line);
    return h("details", { open: at === 0 }, h("summary", {}, line), inner);
  });
  if (responses.length > 0) part("Answers", responses);
  if (method === "get" && !spec["x-websocket"]) body.append(trial(operation));
}

function makeOperation(operation) {
  const { method, path, spec, id } = operation;
  const body = h("div", { class: "body", id: `${id}-body`, hidden: true });
  const button = h(
    "button", { type: "button", "aria-expanded": "false", "aria-controls": body.id },
    h("span", { class: `method ${method}`, text: method.toUpperCase() }),
    h("code", { class: "path", text: path }),
    h("span", { class: "summary", text: spec.summary ?? "" }),
    h("i", { class: "chevron" }),
  );
  operation.open = (isOpen = true) => {
    if (isOpen && body.childElementCount === 0) fillBody(body, operation);
    body.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
  };
  button.addEventListener("click", () => {
    const isOpen = body.hidden;
    operation.open(isOpen);
    if (isOpen) history.replaceState(null, "", `#${id}`);
  });
  operation.node = h("article", { class: "panel operation", id }, h("h3", {}, button), body);
  const short = method === "delete" ? "DEL" : method.toUpperCase();
  operation.link = h(
    "a", { href: `#${id}` },
    h("span", { class: `method ${method}`, text: short }), h("span", { text: path }),
  );
  operation.link.addEventListener("click", () => operation.open());
  return operation;
}

function collect() {
  const operations = [];
  for (const [path, raw] of Object.entries(root.paths ?? {})) {
    const item = resolve(raw);
    for (const method of METHODS) {
      const spec = item[method];
      if (!spec) continue;
      const byName = new Map();
      for (const raw of [...(item.parameters ?? []), ...(spec.parameters ?? [])]) {
        const one = resolve(raw);
        byName.set(`${one.in} ${one.name}`, one);
      }
      const parameters = [...byName.values()];
      const tag = spec.tags?.[0] ?? "Other";
      const id = `${method}${path}`.replace(/[^a-zA-Z0-9]+/g, "-");
      const all = [method, path, tag, spec.summary, spec.description];
      const words = all.filter(Boolean).join(" ").toLowerCase();
      operations.push(makeOperation({ method, path, spec, tag, id, words, parameters }));
    }
  }
  return operations;
}

function show() {
  const { info = {} } = root;
  setText(byId("title"), `${info.title ?? "API"} ${info.version ?? ""}`);
  byId("about").replaceChildren(prose(info.description ?? "Every call of this server."));
  const operations = collect();
  const told = new Map((root.tags ?? []).map((tag) => [tag.name, tag.description]));
  const names = new Set([...told.keys(), ...operations.map((one) => one.tag)]);
  const groups = [];
  for (const name of names) {
    const own = operations.filter((one) => one.tag === name);
    if (own.length === 0) continue;
    const about = told.get(name);
    const section = h(
      "section", { class: "group", "aria-label": name }, h("h2", { text: name }),
      about ? h("p", { class: "muted", text: about }) : null, own.map((one) => one.node),
    );
    const links = h("div", {}, h("h2", { text: name }), own.map((one) => one.link));
    byId("groups").append(section);
    byId("index").append(links);
    groups.push({ own, section, links });
  }
  const filter = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const { own, section, links } of groups) {
      let some = 0;
      for (const one of own) {
        const fits = words.every((word) => one.words.includes(word));
        one.node.hidden = one.link.hidden = !fits;
        some += fits;
      }
      section.hidden = links.hidden = some === 0;
      found += some;
    }
    byId("nothing").hidden = found > 0;
    setText(byId("found"), `${found} of ${operations.length} calls`);
  };
  byId("search").addEventListener("input", filter);
  filter();
  const jump = () => {
    const one = operations.find(({ id }) => `#${id}` === location.hash);
    one?.open();
    one?.node.scrollIntoView();
  };
  addEventListener("hashchange", jump);
  jump();
}

try {
  const answer = await fetch(`${ROOT}openapi.json`);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  root = await answer.json();
  show();
} catch (fault) {
  setText(byId("about"), `The description cannot be read: ${fault.message}.`);
}
