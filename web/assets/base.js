// Shared by all pages: building elements, figures as text, charts, the token, the sign-in form.
// Everything that comes from a server is put on the page as text, never as markup.

/** The server's URL: the prefix of this file's path, such as `https://host/push/`. */
export const ROOT = new URL("..", import.meta.url).href;

const SVG = "http://www.w3.org/2000/svg";
const TOKEN = "fanfare-token";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element: attributes, `on...` listeners, then children (nodes or text). */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  assign(node, attributes);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  assign(node, attributes);
  node.append(...children);
  return node;
}

function assign(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
}

/** Sets text only where it differs, so that a reader's selection and focus stay. */
export function setText(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 1234 as 1,234; from 100,000 on 123.5K. */
export function count(value) {
  if (!Number.isFinite(value)) return "-";
  return Math.abs(value) < 100_000 ? WHOLE.format(Math.round(value)) : SHORT.format(value);
}

/** 1536 as 1.5 KiB. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit === 0 || left >= 100 ? Math.round(left) : left.toFixed(1)} ${units[unit]}`;
}

/** Microseconds as they read best. */
export function micros(value) {
  if (!Number.isFinite(value)) return "-";
  if (value < 1_000) return `${Math.round(value)} \u00b5s`;
  if (value < 1_000_000) return `${(value / 1_000).toFixed(value < 10_000 ? 1 : 0)} ms`;
  return `${(value / 1_000_000).toFixed(1)} s`;
}

/** Milliseconds as a short span: 850 ms, 12 s, 3 min, 2 h 5 min, 4 d. */
export function span(ms) {
  if (!Number.isFinite(ms)) return "-";
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 5) return `${minutes} min ${seconds % 60} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day. */
export function clock(date) {
  return date.toLocaleTimeString("en-GB", { hour12: false });
}

/** The token of this tab. Two tabs can be two users. */
export const session = {
  get token() {
    return sessionStorage.getItem(TOKEN);
  },
  set token(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  },
};

/** The claims of a token, unverified. */
export function claims(token) {
  try {
    const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const raw = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(raw));
  } catch {
    return {};
  }
}

/**
 * The token of this tab for a client: one that began with a login is renewed before its end. One that
 * cannot be renewed is returned as it is, and the server judges it.
 */
export async function freshToken() {
  const token = session.token;
  const { exp, iat, auth_time: signedIn } = claims(token ?? "");
  if (!exp || !signedIn) return token;
  const left = exp * 1000 - Date.now();
  if (left <= 0 || left > Math.min(90_000, (exp - (iat ?? exp)) * 500)) return token;
  try {
    const headers = { authorization: `Bearer ${token}` };
    const answer = await fetch(`${ROOT}api/v1/users/renew`, { method: "POST", headers });
    if (answer.ok) {
      const renewed = (await answer.json()).token;
      // The user may have signed out meanwhile.
      if (session.token === token) session.token = renewed;
    }
  } catch {
    // The old one holds for a moment yet.
  }
  return session.token;
}

/** Forgets the token; one that began with a login is revoked as well. */
export async function logOut() {
  const token = session.token;
  session.token = null;
  if (!claims(token ?? "").auth_time) return;
  try {
    const headers = { authorization: `Bearer ${token}` };
    await fetch(`${ROOT}api/v1/users/logout`, { method: "POST", headers, keepalive: true });
  } catch {
    // It ends by itself within the hour.
  }
}

/** Shows a short message for a few seconds, and says it politely. */
export function toast(text, kind = "") {
  const node = h("div", { class: `toast ${kind}`, text });
  byId("toasts").append(node);
  setTimeout(() => node.remove(), kind === "bad" ? 9_000 : 5_000);
}

/** Says something to screen readers only. */
export function say(text) {
  const node = byId("said");
  node.textContent = "";
  requestAnimationFrame(() => (node.textContent = text));
}

/** The button that changes between light and dark. */
export function themeButton(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const sun = "M12 4V2M12 22v-2M4 12H2M22 12h-2M6.300 6.300 4.900 4.900M19.100 19.100l-1.400-1.400"
    + "M17.700 6.300l1.400-1.400M4.900 19.100l1.400-1.400M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8";
  const moon = "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z";
  const path = s("path");
  button.append(s("svg", {
    viewBox: "0 0 24 24", width: 17, height: 17, fill: "none", stroke: "currentColor",
    "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round",
    "aria-hidden": "true",
  }, path));
  const show = () => {
    path.setAttribute("d", isDark() ? sun : moon);
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("fanfare-theme", root.dataset.theme);
    } catch {
      // It holds for this page then.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** Shows how the connection stands, in words and with a dot. */
export function linkState(node, client) {
  const text = node.querySelector("[data-text]");
  const show = () => {
    node.dataset.state = client.state;
    if (client.state === "open") setText(text, "Live");
    else if (client.state === "stopped") setText(text, "Stopped");
    else if (client.state === "waiting" && client.nextAttemptAt) {
      setText(text, "Reconnecting");
    } else setText(text, "Connecting");
  };
  client.on("state", show);
  show();
}

/** Logs in and returns `{token, user_id, expires_at}`; throws an Error with words for the user. */
export async function logIn(username, password) {
  return account("login", { username, password });
}

/** Makes an account. */
export async function signUp(username, password) {
  return account("register", { username, password });
}

async function account(what, body) {
  let answer;
  try {
    answer = await fetch(`${ROOT}api/v1/users/${what}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  if (answer.status === 401) throw new Error("This name and password do not fit.");
  if (answer.status === 409) throw new Error("This name is taken.");
  if (answer.status === 429) throw new Error("Too many attempts. Wait a minute.");
  const detail = value.detail ?? `The server answered ${answer.status}.`;
  throw new Error(detail.charAt(0).toUpperCase() + detail.slice(1));
}

/** A top that is pleasant to read, above a value. */
function niceTop(value) {
  if (value <= 4) return 4;
  const unit = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10]) {
    if (step * unit >= value) return step * unit;
  }
  return value;
}

/**
 * A line chart that moves with time. `series` is a list of `{key, label, tone}`; `push` adds a
 * sample. A pause in the samples is a gap in the line.
 */
export class Chart {
  #root;
  #series;
  #format;
  #label;
  #windowMs;
  #samples = [];
  #svg = s("svg", { "aria-hidden": "true" });
  #hover = null;
  #values = new Map();

  constructor(root, { series, format = count, label, windowMs = 120_000, legend }) {
    this.#root = root;
    this.#series = series;
    this.#format = format;
    this.#label = label;
    this.#windowMs = windowMs;
    root.setAttribute("role", "img");
    root.append(this.#svg);
    for (const one of series) {
      const value = h("b", { text: "-" });
      this.#values.set(one.key, value);
      const line = s("line", {
        x1: 0, x2: 14, y1: 1.5, y2: 1.5, "stroke-width": 3, class: `s-${one.tone}`,
      });
      legend?.append(h("span", {}, s("svg", { "aria-hidden": "true" }, line), one.label, value));
    }
    new ResizeObserver(() => this.draw()).observe(root);
    root.addEventListener("pointermove", (event) => {
      this.#hover = event.offsetX;
      this.draw();
    });
    root.addEventListener("pointerleave", () => {
      this.#hover = null;
      this.draw();
    });
  }

  /** Adds a sample; older ones than the newest are not taken. */
  push(at, values) {
    const last = this.#samples.at(-1);
    if (last && at <= last.at) return;
    this.#samples.push({ at, values });
    const from = at - this.#windowMs - 5_000;
    while (this.#samples[0].at < from) this.#samples.shift();
    if (!document.hidden) this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.#root;
    const last = this.#samples.at(-1);
    if (width === 0) return;
    const left = 46;
    const bottom = height - 17;
    const end = last?.at ?? 0;
    const start = end - this.#windowMs;
    const shown = this.#samples.filter((sample) => sample.at >= start - 3_000);
    let most = 0;
    for (const { values } of shown) {
      for (const { key } of this.#series) most = Math.max(most, values[key] || 0);
    }
    const top = niceTop(most * 1.05);
    const x = (at) => left + ((at - start) / this.#windowMs) * (width - left - 4);
    const y = (value) => bottom - (value / top) * (bottom - 8);
    const parts = [];
    for (const part of last ? [0, 0.5, 1] : [0, 1]) {
      const at = Math.round(y(top * part)) + 0.5;
      parts.push(s("line", { class: "grid", x1: left, x2: width, y1: at, y2: at }));
      const text = last ? this.#format(top * part) : "";
      parts.push(s("text", { x: left - 6, y: at + 3.5, "text-anchor": "end" }, text));
    }
    const minutes = this.#windowMs / 60_000;
    parts.push(s("text", { x: left, y: height - 3 }, `${minutes} min ago`));
    parts.push(s("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
    const clip = { left, right: width };
    for (const [at, one] of [...this.#series.entries()].reverse()) {
      const runs = this.#runs(shown, one.key, x, y, clip);
      for (const run of runs) {
        const line = run.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
        if (at === 0) {
          const [from, to] = [run[0][0].toFixed(1), run.at(-1)[0].toFixed(1)];
          const d = `M${line}L${to} ${bottom}L${from} ${bottom}Z`;
          parts.push(s("path", { class: `area s-${one.tone}`, d }));
        }
        parts.push(s("path", { class: `series s-${one.tone}`, d: `M${line}` }));
      }
    }
    if (!last) {
      const middle = { x: (left + width) / 2, y: bottom / 2 + 4, "text-anchor": "middle" };
      parts.push(s("text", middle, "nothing yet"));
    }
    let focus = last ?? { at: 0, values: {} };
    if (last && this.#hover !== null && this.#hover >= left) {
      const at = start + ((this.#hover - left) / (width - left - 4)) * this.#windowMs;
      for (const sample of shown) {
        if (Math.abs(sample.at - at) < Math.abs(focus.at - at)) focus = sample;
      }
      const px = x(focus.at);
      parts.push(s("line", { class: "cursor", x1: px, x2: px, y1: 4, y2: bottom }));
      const text = clock(new Date(focus.at));
      const isLeft = px > width - 60;
      const place = { x: px + (isLeft ? -5 : 5), y: 12, "text-anchor": isLeft ? "end" : "start" };
      parts.push(s("text", place, text));
    }
    this.#svg.replaceChildren(...parts);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const words = [];
    for (const { key, label } of this.#series) {
      const text = this.#format(focus.values[key] ?? NaN);
      setText(this.#values.get(key), text);
      words.push(`${label} ${this.#format(last?.values[key] ?? NaN)}`);
    }
    this.#root.setAttribute("aria-label", `${this.#label}: ${words.join(", ")}`);
  }

  #runs(samples, key, x, y, clip) {
    const runs = [];
    let before = null;
    for (const { at, values } of samples) {
      const value = values[key];
      if (!Number.isFinite(value)) {
        before = null;
        continue;
      }
      if (before === null || at - before > 4_500) runs.push([]);
      const px = Math.min(clip.right, Math.max(clip.left, x(at)));
      runs.at(-1).push([px, y(value)]);
      before = at;
    }
    return runs;
  }
}
