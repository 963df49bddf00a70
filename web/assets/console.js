// The operator console. It lives on one WebSocket of its own. Data that no push carries it reads over
// HTTP every few seconds, and only while the page is visible.

import { FanfareClient, instanceKey, instanceName } from "../fanfare.js";
import {
  Chart, ROOT, byId, bytes, claims, clock, count, freshToken, h, linkState, logIn, logOut, micros,
  say, session, setText, span, themeButton, toast,
} from "./base.js";

const ROWS_FIRST = 100;
const LOG_MAX = 200;
const FRAMES_MAX = 200;
const STATUSES = ["up", "starting", "unhealthy", "down", "unknown"];
const TONES = { up: "good", starting: "info", down: "bad", unhealthy: "warn" };
const REASONS = {
  register: ["registered", "good"],
  update: ["updated", "info"],
  unregister: ["left", ""],
  expired: ["expired", "bad"],
  pull_out: ["pulled out", "out"],
  pull_in: ["pulled in", "good"],
};

const client = new FanfareClient({ url: ROOT, token: freshToken });
const all = client.services();
const stats = client.channel("$stats", { history: 150 });

// ---- Frame of the page ------------------------------------------------------------------------

themeButton(byId("theme"));
linkState(byId("link"), client);
const signIn = byId("signin");
const showToken = () => (byId("sign").hidden = session.token === null);
showToken();

client.on("welcome", (frame) => {
  setText(byId("node"), `node ${frame.node_id} / ${frame.version}`);
  byId("notice").hidden = true;
});
client.on("unauthorized", () => {
  if (!signIn.open) signIn.showModal();
});
client.on("stopped", (fault) => {
  const isToken = fault.code === "unauthorized" || fault.code === "token_expired";
  setText(byId("notice-text"), `Not connected: ${fault.message}.`);
  setText(byId("notice-button"), isToken ? "Sign in" : "Connect again");
  byId("notice").hidden = false;
});
byId("notice-button").addEventListener("click", () => {
  const { code } = client.stoppedBy ?? {};
  if (code === "unauthorized" || code === "token_expired") signIn.showModal();
  else client.reconnect();
});
byId("sign").addEventListener("click", async () => {
  await logOut();
  location.reload();
});
byId("signin-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password, token } = event.target.elements;
  const error = byId("signin-error");
  setText(error, "");
  try {
    const pasted = token.value.trim();
    if (!pasted && !username.value) throw new Error("Enter a name and a password, or a token.");
    session.token = pasted || (await logIn(username.value, password.value)).token;
    const headers = { authorization: `Bearer ${session.token}` };
    const answer = await fetch(`${ROOT}api/status/node.json`, { headers });
    if (answer.status === 401) {
      session.token = null;
      throw new Error("The server does not take this token.");
    }
    signIn.close();
    showToken();
    client.reconnect();
    tick();
  } catch (fault) {
    setText(error, fault.message);
  }
});

/** Asks before something that cannot be taken back. */
function confirm(text, yes) {
  const dialog = byId("confirm");
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), yes);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
byId("confirm").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("confirm").close(event.submitter?.value);
});

/** Carries out a button's action, and shows the result. */
async function act(button, done, work) {
  button.disabled = true;
  try {
    await work();
    toast(done);
  } catch (fault) {
    const isDenied = fault.status === 403;
    toast(isDenied ? `${fault.message}. Sign in with a token that allows it.` : fault.message, "bad");
  } finally {
    button.disabled = false;
    button.focus({ preventScroll: true });
  }
}

// ---- Charts and figures -----------------------------------------------------------------------

const charts = {
  connections: new Chart(byId("c-connections"), {
    label: "Connections",
    legend: byId("l-connections"),
    series: [
      { key: "connections", label: "sockets", tone: "accent" },
      { key: "users", label: "users", tone: "out" },
    ],
  }),
  deliveries: new Chart(byId("c-deliveries"), {
    label: "Deliveries per second",
    legend: byId("l-deliveries"),
    series: [
      { key: "deliveries", label: "deliveries", tone: "accent" },
      { key: "events", label: "events", tone: "info" },
    ],
  }),
  latency: new Chart(byId("c-latency"), {
    label: "Fan-out latency of the last 10 s",
    legend: byId("l-latency"),
    format: micros,
    series: [
      { key: "p99", label: "p99", tone: "warn" },
      { key: "p50", label: "p50", tone: "accent" },
    ],
  }),
};

let lastStats = null;
let pushedAt = 0;
let polledAt = 0;
const startedAt = Date.now();
const figures = new Map();

function figure(name, value, tone = "") {
  let dd = figures.get(name);
  if (!dd) {
    dd = h("dd");
    figures.set(name, dd);
    byId("figures").append(h("div", {}, h("dt", { text: name }), dd));
  }
  setText(dd, value);
  if (dd.className !== tone) dd.className = tone;
}

/** Growth a second of a total. None across a restart. */
function rate(now, before, seconds) {
  return before === undefined || now < before || seconds <= 0 ? NaN : (now - before) / seconds;
}

/** Latency of the last ten seconds; of none there is nothing to draw. */
function recentLatency(value) {
  const latency = value.fanout_latency_10s_us ?? value.fanout_latency_us;
  return latency.count === 0 ? { p50: NaN, p99: NaN, max: NaN } : latency;
}

function takeStats(value, at) {
  if (lastStats && at - lastStats.at < 400) return;
  const before = lastStats?.value;
  const seconds = lastStats ? (at - lastStats.at) / 1_000 : 0;
  const isNear = seconds < 10 && before && value.uptime_s >= before.uptime_s;
  const per = (name) => (isNear ? rate(value[name], before[name], seconds) : NaN);
  const deliveries = per("deliveries_total");
  const latency = recentLatency(value);
  charts.connections.push(at, { connections: value.connections, users: value.users_online });
  charts.deliveries.push(at, { deliveries, events: per("events_total") });
  charts.latency.push(at, { p50: latency.p50, p99: latency.p99 });
  const shardsBefore = isNear ? before.shards : [];
  lastStats = { value, at };
  // A past that is being read goes into the charts only.
  if (stats.state === "live" || polledAt > 0) showStats(value, deliveries, shardsBefore, seconds);
}

function showStats(value, deliveries, shardsBefore, seconds) {
  setText(byId("h-connections"), count(value.connections));
  setText(byId("h-deliveries"), count(deliveries));
  setText(byId("h-latency"), micros(recentLatency(value).p99));
  byId("h-latency").append(h("small", { text: " p99, last 10 s" }));
  showFigures(value);
  showShards(value.shards ?? [], shardsBefore, seconds, value.slow_readers_total ?? 0);
}

function showFigures(value) {
  let instances = value.instances;
  if (instances === undefined) {
    instances = 0;
    for (const one of all.services.values()) instances += one.instances.size;
  }
  const dropped = value.events_dropped_total ?? 0;
  figure("Users online", count(value.users_online));
  figure("Services", count(value.services ?? all.services.size));
  figure("Instances", count(instances));
  figure("Subscriptions", count(value.subscriptions));
  figure("Events", count(value.events_total));
  figure("Delivered", count(value.deliveries_total));
  figure("Bytes out", bytes(value.delivered_bytes_total));
  figure("Latency max, last 60 s", micros(value.fanout_latency_us.max));
  figure("Slow readers", count(value.slow_readers_total), value.slow_readers_total ? "warn" : "");
  figure("Dropped", count(dropped), dropped ? "bad" : "");
  figure("Memory", bytes(value.memory_rss_bytes));
  figure("Uptime", span(value.uptime_s * 1_000));
}

/** Keeps as many rows as there are items, and hands each its own. */
function rows(body, items, make, fill) {
  while (body.children.length > items.length) body.lastElementChild.remove();
  items.forEach((item, at) => {
    if (!body.children[at]) body.append(make());
    fill(body.children[at], item, at);
  });
}

const cells = (number) => () => h("tr", {}, Array.from({ length: number }, () => h("td")));

function share(cell, value, most, text) {
  if (!cell.firstChild) cell.append(h("span"), h("i"));
  cell.className = "share";
  setText(cell.firstChild, text);
  cell.lastChild.style.width = most > 0 && value > 0 ? `${(value / most) * 100}%` : "0";
}

function showShards(shards, before, seconds, slowTotal) {
  setText(byId("n-shards"), shards.length);
  const old = new Map(before.map((one) => [one.shard, one]));
  const speeds = shards.map((one) => {
    const speed = rate(one.deliveries_total, old.get(one.shard)?.deliveries_total, seconds);
    return Number.isFinite(speed) ? speed : 0;
  });
  const most = Math.max(...shards.map((one) => one.connections));
  const fastest = Math.max(...speeds);
  rows(byId("shards"), shards, cells(4), (row, one, at) => {
    const [name, connections, speed, peak] = row.children;
    setText(name, one.shard);
    share(connections, one.connections, most, count(one.connections));
    share(speed, speeds[at], fastest, count(speeds[at]));
    setText(peak, bytes(one.outbox_bytes_peak ?? 0));
  });
  let slow = 0;
  rows(byId("slow"), shards, cells(3), (row, one) => {
    const [name, collapsed, closed] = row.children;
    slow += (one.slow_collapsed_total ?? 0) + (one.slow_closed_total ?? 0);
    setText(name, one.shard);
    setText(collapsed, count(one.slow_collapsed_total ?? 0));
    setText(closed, count(one.slow_closed_total ?? 0));
  });
  slow = Math.max(slow, slowTotal);
  setText(byId("n-slow"), slow === 0 ? "none so far" : `${count(slow)} in all`);
  byId("n-slow").className = slow === 0 ? "badge good" : "badge warn";
}

stats.on("message", (frame) => {
  if (frame.event !== "stats" || typeof frame.payload !== "object") return;
  pushedAt = Date.now();
  takeStats(frame.payload, frame.payload.timestamp_ms ?? Date.parse(frame.timestamp));
  setText(byId("source"), "Figures are pushed once a second.");
});

/** The text in place of data that the token does not allow. */
const wants = (what, scope) => `${what} needs a token with the scope ${scope}.`;

/** Reads a list. Where the token does not show it, the words for an empty one say so. */
async function readList(path, empty, what, scope) {
  const node = byId(empty);
  try {
    const answer = await client.http("GET", path);
    if (node.dataset.words) setText(node, node.dataset.words);
    delete node.dataset.words;
    return answer;
  } catch (fault) {
    if (fault.status !== 403) throw fault;
    node.dataset.words ??= node.textContent;
    setText(node, wants(what, scope));
    node.hidden = false;
    return null;
  }
}

/** Where nothing is pushed, the figures are asked for. */
async function pollStats() {
  const now = Date.now();
  if (now - Math.max(pushedAt, polledAt) < 950) return;
  const isFirst = polledAt === 0 && pushedAt === 0;
  if (!isFirst && now - Math.max(pushedAt, startedAt) < 3_000) return;
  polledAt = now;
  let value;
  try {
    value = await client.http("GET", "/ws/stats");
  } catch (fault) {
    if (fault.status === 403) setText(byId("source"), wants("Reading figures", "sockets:read"));
    throw fault;
  }
  if (isFirst) {
    // Something to look at, until the charts are filled from the past.
    if (lastStats === null) showStats(value, NaN, [], 0);
    return;
  }
  takeStats(value, Date.now());
  setText(byId("source"), "Figures are read once a second.");
}

// ---- Services ---------------------------------------------------------------------------------

/** The last reading of leases, by service. */
let leases = new Map();
/** Pulled-out instances that this page saw leave; the server's own list wins where it gives one. */
const pulledOut = new Map();
const expanded = new Map();
const serviceRows = new Map();
const dirty = new Set();
let isListDirty = true;
let shown = ROWS_FIRST;
let isDrawing = false;

function touch(serviceId) {
  if (serviceId === undefined) isListDirty = true;
  else dirty.add(serviceId);
  if (isDrawing) return;
  isDrawing = true;
  // Not by animation frames: these stand still in a hidden tab.
  setTimeout(draw, 30);
}

function draw() {
  isDrawing = false;
  if (isListDirty) drawList();
  for (const id of dirty) drawService(id);
  dirty.clear();
}

function drawList() {
  isListDirty = false;
  const words = byId("f-services").value.trim().toLowerCase();
  const known = all.list().filter((one) => one.serviceId.includes(words));
  const list = byId("services");
  const wanted = known.slice(0, shown).map((one) => one.serviceId);
  const keep = new Set(wanted);
  for (const [id, row] of serviceRows) {
    if (keep.has(id)) continue;
    row.node.remove();
    serviceRows.delete(id);
    close(id);
  }
  wanted.forEach((id, at) => {
    let row = serviceRows.get(id);
    if (!row) {
      row = makeRow(id);
      serviceRows.set(id, row);
      dirty.add(id);
    }
    if (list.children[at] !== row.node) list.insertBefore(row.node, list.children[at] ?? null);
  });
  const total = all.services.size;
  setText(byId("n-services"), known.length === total ? total : `${known.length} of ${total}`);
  byId("no-services").hidden = known.length > 0 || all.state !== "live";
  if (total > 0) setText(byId("no-services"), "No service fits this filter.");
  byId("more-services").hidden = known.length <= shown;
  const weak = all.list().filter((one) => one.degraded).length;
  byId("degraded").hidden = weak === 0;
  setText(byId("degraded"), `${weak} degraded`);
}

function makeRow(id) {
  const name = h("b", { class: "clip", text: id });
  const badges = h("span", { class: "nowrap" });
  const health = h("span");
  const bar = h("span", { class: "bar", "aria-hidden": "true" });
  const expiry = h("span", { class: "expiry" });
  const revision = h("span", { class: "revision muted" });
  const detail = h("div", { class: "detail", id: `detail-${crypto.randomUUID()}`, hidden: true });
  const button = h(
    "button",
    { type: "button", "aria-expanded": "false", "aria-controls": detail.id },
    h("span", { class: "name" }, h("i", { class: "chevron" }), name, badges),
    h("span", { class: "health" }, health, bar),
    expiry, revision,
  );
  button.addEventListener("click", () => (expanded.has(id) ? close(id) : open(id)));
  const node = h("li", { class: "service" }, button, detail);
  return { node, button, badges, health, bar, expiry, revision, detail, rows: new Map() };
}

function badge(text, tone = "") {
  return h("span", { class: `badge ${tone}`, text });
}

function outOf(id) {
  const told = expanded.get(id)?.leases;
  if (!told) return pulledOut.get(id) ?? new Map();
  const out = told.filter((one) => one.pulled_out);
  return new Map(out.map((one) => [instanceName(one.instance), one.instance]));
}

function drawService(id) {
  const row = serviceRows.get(id);
  const known = all.services.get(id);
  if (!row || !known) return;
  const lease = leases.get(id);
  const by = new Map();
  for (const one of known.instances.values()) {
    const status = STATUSES.includes(one.status) ? one.status : "unknown";
    by.set(status, (by.get(status) ?? 0) + 1);
  }
  const out = Math.max(lease?.pulled_out ?? 0, outOf(id).size);
  const total = known.instances.size;
  setText(row.health, `${by.get("up") ?? 0} / ${total} up`);
  const parts = STATUSES.filter((status) => by.has(status)).map((status) => {
    const part = h("i", { class: status });
    part.style.flex = String(by.get(status));
    return part;
  });
  if (out > 0) {
    const part = h("i", { class: "out" });
    part.style.flex = String(out);
    parts.push(part);
  }
  row.bar.replaceChildren(...parts);
  const badges = [];
  if (known.degraded) badges.push(badge("degraded", "warn"));
  if (out > 0) badges.push(badge(`${out} pulled out`, "out"));
  if (lease?.overdue > 0) badges.push(badge(`${lease.overdue} overdue`, "bad"));
  if (lease && !lease.self_protection_enabled) badges.push(badge("unprotected"));
  row.badges.replaceChildren(...badges.flatMap((one) => [one, " "]));
  const next = lease?.next_expiry_ms;
  setText(row.expiry, Number.isFinite(next) ? `in ${span(next)}` : "-");
  setText(row.revision, `r${known.revision}`);
  if (expanded.has(id)) drawDetail(id, row, known);
}

function open(id) {
  const row = serviceRows.get(id);
  expanded.set(id, { leases: null, isAsking: false });
  row.button.setAttribute("aria-expanded", "true");
  row.facts = h("div", { class: "facts" });
  row.body = h("tbody");
  const heads = ["Instance", "Address", "Zone", "Status", "Lease age"];
  const head = heads.map((text) => h("th", { scope: "col", text }));
  head.push(h("th", { scope: "col" }, h("span", { class: "sr-only", text: "Action" })));
  const table = h(
    "table", { class: "stack", "aria-label": `Instances of ${id}` },
    h("thead", {}, h("tr", {}, head)), row.body,
  );
  row.rows.clear();
  row.detail.replaceChildren(row.facts, table);
  row.detail.hidden = false;
  touch(id);
  readLeases(id);
}

function close(id) {
  expanded.delete(id);
  const row = serviceRows.get(id);
  if (!row) return;
  row.button.setAttribute("aria-expanded", "false");
  row.detail.hidden = true;
  row.detail.replaceChildren();
  row.rows.clear();
}

function drawDetail(id, row, known) {
  const told = expanded.get(id).leases;
  const lease = leases.get(id);
  const ages = new Map((told ?? []).map((one) => [instanceName(one.instance), one]));
  const list = [...known.instances.values()].map((instance) => ({ instance, isOut: false }));
  for (const [name, instance] of outOf(id)) {
    if (!known.instances.has(name)) list.push({ instance, isOut: true });
  }
  list.sort((a, b) => (instanceName(a.instance) < instanceName(b.instance) ? -1 : 1));
  const names = new Set(list.map((one) => instanceName(one.instance)));
  for (const [name, one] of row.rows) {
    if (names.has(name)) continue;
    one.node.remove();
    row.rows.delete(name);
  }
  list.forEach(({ instance, isOut }, at) => {
    const name = instanceName(instance);
    let one = row.rows.get(name);
    if (!one) {
      one = makeInstance(id);
      row.rows.set(name, one);
    }
    if (row.body.children[at] !== one.node) {
      row.body.insertBefore(one.node, row.body.children[at] ?? null);
    }
    one.fill(instance, isOut, ages.get(name));
  });
  const facts = [`epoch ${known.epoch}`, `revision ${known.revision}`];
  if (lease) facts.push(`${lease.leases} leases`);
  const nodes = facts.map((text) => h("span", { text }));
  if (!row.protect) {
    row.protect = h("button", { type: "button", class: "small" });
    row.protect.addEventListener("click", () => protect(id, row.protect));
  }
  const isOn = lease?.self_protection_enabled !== false;
  row.protect.dataset.enable = String(!isOn);
  setText(row.protect, isOn ? "Lift self-protection" : "Protect again");
  // The number of leases comes later than the rest, and not at all without the scope for it.
  const shown = row.facts.querySelectorAll("span");
  if (shown.length === nodes.length) {
    nodes.forEach((node, at) => setText(shown[at], node.textContent));
  } else row.facts.replaceChildren(...nodes);
  const hasButton = known.degraded || !isOn;
  if (hasButton && !row.protect.isConnected) row.facts.append(row.protect);
  if (!hasButton) row.protect.remove();
}

function makeInstance(serviceId) {
  const id = h("td", { class: "id" });
  const address = h("td", { class: "mono" });
  const zone = h("td", { class: "muted" });
  const status = h("td");
  const lease = h("td");
  const button = h("button", { type: "button", class: "small" });
  const node = h("tr", {}, id, address, zone, status, lease, h("td", { class: "full" }, button));
  let current = null;
  button.addEventListener("click", () => {
    const { instance, isOut } = current;
    operate(serviceId, instance, !isOut, button);
  });
  const fill = (instance, isOut, age) => {
    current = { instance, isOut };
    setText(id, instance.instanceId);
    const port = instance.port ? `:${instance.port}` : "";
    setText(address, instance.url ?? (instance.ip ? instance.ip + port : "-"));
    setText(zone, [instance.regionId, instance.zoneId].filter(Boolean).join(" / ") || "-");
    const word = isOut ? "pulled out" : (instance.status ?? "unknown");
    if (status.textContent !== word) {
      status.replaceChildren(badge(word, isOut ? "out" : TONES[instance.status]));
    }
    fillLease(lease, instance, age);
    node.classList.toggle("is-out", isOut);
    setText(button, isOut ? "Pull in" : "Pull out");
    button.setAttribute("aria-label", `${button.textContent} ${instance.instanceId}`);
  };
  return { node, fill };
}

function fillLease(cell, instance, age) {
  if (!age) {
    const ttl = instance.leaseTtlMs;
    cell.className = "muted";
    setText(cell, ttl ? `of ${span(ttl)}` : "-");
    return;
  }
  if (cell.className !== "told") {
    cell.className = "told";
    const track = h("div", { class: "track" }, h("i"));
    cell.replaceChildren(h("div", { class: "lease" }, h("span"), track));
  }
  const box = cell.firstChild;
  const left = age.expires_in_ms ?? age.lease_ttl_ms - age.age_ms;
  const isLate = left <= 0;
  box.classList.toggle("late", isLate);
  setText(box.firstChild, isLate
    ? `overdue, renewed ${span(age.age_ms)} ago`
    : `${span(age.age_ms)} of ${span(age.lease_ttl_ms)}`);
  const part = Math.max(0, Math.min(1, left / age.lease_ttl_ms));
  box.lastChild.firstChild.style.width = `${part * 100}%`;
}

function operate(serviceId, instance, isOut, button) {
  const name = `${serviceId} / ${instance.instanceId}`;
  act(button, `${isOut ? "Pulled out" : "Pulled in"}: ${name}`, async () => {
    const answer = await client.http("POST", "/api/management/instance/operate-instance.json", {
      instanceKey: instanceKey(instance),
      operation: "pull-out",
      operationComplete: !isOut,
      operatorId: claims(session.token ?? "").username ?? "console",
    });
    check(answer);
    readLeases(serviceId);
  });
}

async function protect(serviceId, button) {
  const enabled = button.dataset.enable === "true";
  const text = `Lift the self-protection of ${serviceId}? What is overdue expires at once.`;
  if (!enabled && !(await confirm(text, "Lift it"))) return;
  const done = `${serviceId} is ${enabled ? "protected again" : "no longer protected"}`;
  act(button, done, async () => {
    const path = `/api/management/services/${encodeURIComponent(serviceId)}/self-protection`;
    check(await client.http("POST", path, { enabled }));
  });
}

/** The registry refuses with 200 and a word. */
function check(answer) {
  const status = answer?.responseStatus;
  if (!status || status.status === "success") return;
  throw new Error(status.errorMessage || status.message || status.errorCode);
}

async function readLeases(id) {
  const state = expanded.get(id);
  if (!state || state.isAsking) return;
  state.isAsking = true;
  try {
    const query = encodeURIComponent(id);
    const answer = await client.http("GET", `/api/status/leases.json?service_id=${query}`);
    const own = answer.services?.find((one) => one.service_id === id);
    // An older server answers without instances; the page then uses its own picture.
    state.leases = own?.instances ?? null;
    if (own) leases.set(id, own);
    touch(id);
  } finally {
    state.isAsking = false;
  }
}

async function pollLeases() {
  const path = "/api/status/leases.json";
  const answer = await readList(path, "no-services", "Reading services", "registry:read");
  if (answer === null) return;
  leases = new Map((answer.services ?? []).map((one) => [one.service_id, one]));
  for (const id of serviceRows.keys()) touch(id);
  await Promise.all([...expanded.keys()].map(readLeases));
}

byId("f-services").addEventListener("input", () => touch());
byId("more-services").addEventListener("click", () => {
  shown += ROWS_FIRST;
  touch();
});

// ---- Change log -------------------------------------------------------------------------------

let waiting = [];
let isPaused = false;
let changeCount = 0;
const unsaid = new Map();
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

all.on("change", (event) => {
  if (event.kind === "snapshot") touch();
  const { serviceId } = event;
  if (serviceId !== undefined) {
    touch(serviceId);
    if (!serviceRows.has(serviceId) || event.kind === "degraded") touch();
  }
  if (event.kind === "degraded") {
    const isWeak = all.services.get(serviceId).degraded;
    note({ serviceId, reason: isWeak ? ["degraded", "warn"] : ["recovered", "good"] });
    return;
  }
  for (const { instance, reason, changeTime } of event.changes) {
    remember(serviceId, instance, reason);
    note({
      serviceId, instance, at: new Date(changeTime ?? Date.now()),
      reason: REASONS[reason] ?? [reason ?? "changed", ""],
    });
  }
});
all.on("state", (state) => state === "live" && touch());

function remember(serviceId, instance, reason) {
  const name = instanceName(instance);
  if (!pulledOut.has(serviceId)) pulledOut.set(serviceId, new Map());
  if (reason === "pull_out") pulledOut.get(serviceId).set(name, instance);
  else pulledOut.get(serviceId).delete(name);
  const told = expanded.get(serviceId)?.leases?.find((one) => instanceName(one.instance) === name);
  if (told) told.pulled_out = reason === "pull_out";
}

function note(entry) {
  changeCount += 1;
  unsaid.set(entry.serviceId, (unsaid.get(entry.serviceId) ?? 0) + 1);
  waiting.push(entry);
  if (waiting.length > LOG_MAX) waiting = waiting.slice(-LOG_MAX);
  if (!isPaused && waiting.length === 1) setTimeout(flushLog, 30);
}

function flushLog() {
  if (isPaused) return;
  const list = byId("log");
  for (const { serviceId, instance, at = new Date(), reason } of waiting) {
    const isThere = ["registered", "updated", "pulled in"].includes(reason[0]);
    const status = isThere ? ` is ${instance.status ?? "up"}` : "";
    const what = instance ? [h("b", { text: instance.instanceId }), status] : [];
    const line = h(
      "li", { class: "flash" },
      h("time", { text: clock(at) }),
      h("span", {}, badge(...reason)),
      h("span", { class: "what" }, h("span", { class: "muted", text: `${serviceId} ` }), what),
    );
    list.prepend(line);
    const row = serviceRows.get(serviceId)?.node;
    if (row && !reducedMotion.matches) {
      row.classList.remove("flash");
      requestAnimationFrame(() => row.classList.add("flash"));
    }
  }
  waiting = [];
  while (list.children.length > LOG_MAX) list.lastElementChild.remove();
  byId("no-log").hidden = list.children.length > 0;
  setText(byId("n-log"), count(changeCount));
}

// A screen reader hears a summary now and then, not each line.
setInterval(() => {
  if (unsaid.size === 0) return;
  const parts = [...unsaid].slice(0, 3).map(([id, number]) => `${number} in ${id}`);
  if (unsaid.size > 3) parts.push(`and ${unsaid.size - 3} more services`);
  unsaid.clear();
  say(`Changes: ${parts.join(", ")}`);
}, 6_000);

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  setText(byId("pause"), isPaused ? "Go on" : "Pause");
  flushLog();
});
byId("clear-log").addEventListener("click", () => {
  byId("log").replaceChildren();
  byId("no-log").hidden = false;
});

// ---- Channels and connections -----------------------------------------------------------------

let channels = [];

async function pollChannels() {
  const path = "/api/v1/channels";
  const answer = await readList(path, "no-channels", "Reading channels", "channels:read");
  if (answer === null) return;
  channels = answer.channels;
  showChannels();
}

function showChannels() {
  const words = byId("f-channels").value.trim().toLowerCase();
  const list = channels
    .filter((one) => one.name.toLowerCase().includes(words))
    .sort((a, b) => b.subscribers - a.subscribers || (a.name < b.name ? -1 : 1))
    .slice(0, 200);
  setText(byId("n-channels"), channels.length);
  byId("no-channels").hidden = list.length > 0;
  rows(byId("channels"), list, cells(3), (row, one) => {
    const [name, subscribers, offset] = row.children;
    setText(name, one.name);
    name.title = one.description ?? "";
    setText(subscribers, count(one.subscribers));
    setText(offset, count(one.offset));
  });
}
byId("f-channels").addEventListener("input", showChannels);

const connectionRows = new Map();
let pageAfter = null;
let pageNext = null;

async function pollConnections() {
  const empty = byId("no-connections");
  const after = pageAfter === null ? "" : `&after=${encodeURIComponent(pageAfter)}`;
  const path = `/api/v1/connections?limit=50${after}`;
  const answer = await readList(path, "no-connections", "Reading connections", "sockets:read");
  if (answer === null) return;
  const list = answer.connections;
  pageNext = answer.next;
  setText(byId("n-connections"), count(answer.total));
  byId("next-connections").hidden = pageNext === null;
  byId("first-connections").hidden = pageAfter === null;
  empty.hidden = list.length > 0;
  const body = byId("connections");
  const ids = new Set(list.map((one) => one.connection_id));
  for (const [id, row] of connectionRows) {
    if (ids.has(id)) continue;
    row.remove();
    connectionRows.delete(id);
  }
  list.forEach((one, at) => {
    let row = connectionRows.get(one.connection_id);
    if (!row) {
      row = makeConnection(one);
      connectionRows.set(one.connection_id, row);
    }
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
    const [id, user, address, since, follows] = row.children;
    const isMine = one.connection_id === client.connectionId;
    setText(id, one.connection_id + (isMine ? " (this page)" : ""));
    setText(user, one.username || one.user_id || "anonymous");
    user.className = one.user_id ? "" : "muted";
    setText(address, `${one.remote_addr ?? "-"}, shard ${one.shard}`);
    setText(since, span(Date.now() - Date.parse(one.connected_at)));
    setText(follows, follow(one));
  });
}

function follow({ channels: followed = [], rooms = [] }) {
  const names = [...followed, ...rooms.map((room) => `room ${room}`)];
  const more = names.length > 4 ? `, and ${names.length - 4} more` : "";
  return names.slice(0, 4).join(", ") + more;
}

function makeConnection({ connection_id: id }) {
  const label = `Disconnect ${id}`;
  const button = h("button", { type: "button", class: "small danger", text: "Disconnect" });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", async () => {
    if (!(await confirm(`End the connection ${id}? Its client is told not to return.`, "End it"))) {
      return;
    }
    act(button, `Ended: ${id}`, async () => {
      await client.http("DELETE", `/api/v1/connections/${encodeURIComponent(id)}`);
      await pollConnections();
    });
  });
  return h(
    "tr", {},
    h("td", { class: "mono" }), h("td"), h("td", { class: "mono" }), h("td", { class: "nowrap" }),
    h("td", { class: "muted follows" }), h("td", {}, button),
  );
}
byId("connections").parentElement.classList.add("stack");
byId("next-connections").addEventListener("click", () => {
  pageAfter = pageNext;
  pollConnections();
});
byId("first-connections").addEventListener("click", () => {
  pageAfter = null;
  pollConnections();
});

// ---- Try it -----------------------------------------------------------------------------------

let trial = null;

function tryClient() {
  if (trial) {
    if (trial.state === "stopped") trial.reconnect();
    return trial;
  }
  trial = new FanfareClient({ url: ROOT, token: freshToken });
  trial.on("frame", showFrame);
  trial.on("error", (fault) => toast(fault.message, "bad"));
  linkState(byId("try-link"), trial);
  trial.connect().catch(() => {});
  return trial;
}

const BEATS = new Set(["ping", "pong", "heartbeat", "heartbeat_ack"]);

function showFrame({ direction, text, frame }) {
  if (byId("hide-pings").checked && BEATS.has(frame.type)) return;
  const list = byId("frames");
  const isOut = direction === "out";
  const cut = `${text.slice(0, 4_000)} ... ${text.length} characters`;
  list.prepend(h(
    "li", {},
    h("time", { text: clock(new Date()) }),
    h("span", { class: `way ${isOut ? "out" : ""}`, text: isOut ? "OUT" : "IN" }),
    h("code", { text: text.length > 4_000 ? cut : text }),
  ));
  while (list.children.length > FRAMES_MAX) list.lastElementChild.remove();
  byId("no-frames").hidden = true;
}
byId("clear-frames").addEventListener("click", () => {
  byId("frames").replaceChildren();
  byId("no-frames").hidden = false;
});

/** An entry with a button that ends it. */
function chip(list, words, end) {
  const text = h("span");
  const button = h("button", { type: "button", class: "small plain", text: "End" });
  const node = h("li", {}, text, button);
  const show = () => {
    setText(text, words());
    button.setAttribute("aria-label", `End ${words()}`);
  };
  button.addEventListener("click", async () => {
    node.remove();
    await end();
  });
  list.append(node);
  show();
  return show;
}

const followed = new Map();
byId("try-follow").addEventListener("submit", (event) => {
  event.preventDefault();
  const { kind, name } = event.target.elements;
  const what = name.value.trim();
  const isService = kind.value === "service";
  const key = `${kind.value} ${what}`;
  if (what === "" || followed.has(key)) return;
  const live = tryClient();
  const service = () => (what === "*" ? live.services() : live.service(what));
  const view = isService ? service() : live.channel(what);
  followed.set(key, view);
  let messages = 0;
  const words = () => {
    const number = isService ? `${(view.instances ?? view.services).size}` : `${messages} messages`;
    return `${key}: ${number}`;
  };
  const show = chip(byId("following"), words, () => {
    followed.delete(key);
    view.close();
  });
  view.on("change", show);
  view.on("message", () => {
    messages += 1;
    show();
  });
  view.on("error", (fault) => toast(`${key}: ${fault.message}`, "bad"));
});

byId("try-publish").addEventListener("submit", (event) => {
  event.preventDefault();
  const { channel, event: name, payload } = event.target.elements;
  let value = payload.value;
  try {
    value = JSON.parse(value);
  } catch {
    // Then it is sent as text.
  }
  act(event.submitter, `Published to ${channel.value}`, () => {
    const options = name.value.trim() ? { event: name.value.trim() } : {};
    return tryClient().publish(channel.value.trim(), value, options);
  });
});

byId("try-register").addEventListener("submit", (event) => {
  event.preventDefault();
  const { serviceId, instanceId, status, lease } = event.target.elements;
  const instance = {
    regionId: "test", zoneId: "console", serviceId: serviceId.value.trim(),
    instanceId: instanceId.value.trim(), status: status.value, ip: "127.0.0.1", port: 8000,
    leaseTtlMs: Math.round(Number(lease.value) * 1_000),
  };
  const name = `${instance.serviceId} / ${instance.instanceId}`;
  act(event.submitter, `Registered: ${name}`, async () => {
    const held = await tryClient().register(instance);
    let renewals = 0;
    const words = () => `${name}, renewed ${renewals} times`;
    const show = chip(byId("leases"), words, () => held.unregister());
    held.on("renewed", () => {
      renewals += 1;
      show();
    });
    held.on("error", (fault) => toast(`${name}: ${fault.message}`, "bad"));
    instanceId.value = instance.instanceId.replace(/\d+$/, (digits) => String(Number(digits) + 1));
  });
});

// ---- The clock of the page --------------------------------------------------------------------

let ticks = 0;
const busy = new Set();

/** Runs a poll unless its last turn is still under way; a failure is shown by the link's state. */
async function run(poll) {
  if (busy.has(poll)) return;
  busy.add(poll);
  try {
    await poll();
  } catch {
    // The next turn asks again.
  } finally {
    busy.delete(poll);
  }
}

function tick() {
  if (document.hidden || signIn.open || client.state === "stopped") return;
  run(pollStats);
  if (ticks % (leases.size > 1_000 ? 10 : 2) === 0) run(pollLeases);
  if (ticks % 3 === 0) {
    run(pollChannels);
    run(pollConnections);
  }
  ticks += 1;
}
setInterval(tick, 1_000);
document.addEventListener("visibilitychange", tick);
tick();
