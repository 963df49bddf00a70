// The demo: rooms, direct messages, notifications and a dashboard for two or more windows.
// Messages that a user writes while the server is away wait here, and are sent when it is back.

import { FanfareClient } from "../fanfare.js";
import {
  Chart, ROOT, byId, claims, clock, freshToken, h, linkState, logIn, logOut, session, setText, signUp,
  themeButton, toast,
} from "./base.js";

const SHOWN_MAX = 400;
const NAMES = "fanfare-names";
const ROOMS = "fanfare-rooms";
const REASON = "fanfare-reason";

themeButton(byId("theme"));

// ---- Coming in --------------------------------------------------------------------------------

byId("account").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  const button = event.submitter ?? byId("enter");
  const error = byId("account-error");
  setText(error, "");
  button.disabled = true;
  try {
    const name = username.value.trim();
    if (button.value === "register") await signUp(name, password.value);
    session.token = (await logIn(name, password.value)).token;
    password.value = "";
    start();
  } catch (fault) {
    setText(error, fault.message);
  } finally {
    button.disabled = false;
  }
});

byId("sign-out").addEventListener("click", async () => {
  client?.close();
  await logOut();
  sessionStorage.removeItem(ROOMS);
  location.reload();
});

function showWelcome() {
  byId("app").hidden = true;
  byId("welcome").hidden = false;
  for (const id of ["me", "link", "sign-out"]) byId(id).hidden = true;
  setText(byId("account-error"), sessionStorage.getItem(REASON) ?? "");
  sessionStorage.removeItem(REASON);
  byId("account").elements.username.focus();
}

// ---- Names of users ---------------------------------------------------------------------------

const me = { id: null, name: "" };
const names = new Map(readNames());

function readNames() {
  try {
    return JSON.parse(localStorage.getItem(NAMES)) ?? [];
  } catch {
    return [];
  }
}

/** Keeps the names of users, who may be offline when their messages are read again. */
function learn(id, name) {
  if (!name || names.get(id) === name) return;
  names.delete(id);
  names.set(id, name);
  try {
    localStorage.setItem(NAMES, JSON.stringify([...names].slice(-500)));
  } catch {
    // Then they are known until the page is closed.
  }
}

const nameOf = (id) => names.get(id) ?? `user ${String(id).slice(0, 8)}`;

function face(id, isOnline = false) {
  let sum = 0;
  for (const letter of String(id)) sum = (sum * 31 + letter.charCodeAt(0)) % 9973;
  const letters = [...nameOf(id)].slice(0, 2).join("").toUpperCase();
  const tones = `face t${sum % 5}${isOnline ? " online" : ""}`;
  return h("span", { class: tones, "aria-hidden": "true", text: letters });
}

// ---- Chats: rooms and direct ones -------------------------------------------------------------

let client = null;
let inbox = null;
let online = null;
let current = null;
/** By key: `room general` or `user <id>`. */
const chats = new Map();

function makeChat(key, title) {
  const log = h("div", {
    class: "messages", role: "log", tabindex: "0", "aria-label": title, hidden: true,
  });
  const chat = {
    key, log, unread: 0, lastBy: null, lastAt: 0, outbox: [], room: null, userId: null,
    title: () => title, deliver: null, isPast: true, newestId: "",
  };
  byId("logs").append(log);
  chats.set(key, chat);
  return chat;
}

function roomChat(name) {
  const key = `room ${name}`;
  if (chats.has(key)) return chats.get(key);
  const chat = makeChat(key, `Room ${name}`);
  const room = client.room(name, { history: 100 });
  chat.room = room;
  chat.title = () => name;
  chat.deliver = (content) => room.say(content);
  room.on("chat", (frame) => {
    learn(frame.from_user_id, frame.username);
    settle(chat, frame.from_user_id, frame.content);
    add(chat, frame.from_user_id, frame.content, new Date(frame.timestamp));
  });
  room.on("members", (members) => {
    for (const [id, username] of members) learn(id, username);
    if (chat === current) showMembers();
  });
  room.on("lost", () => mark(chat, "The server began anew. Its memory of this room is shorter."));
  room.on("joined", () => {
    chat.isPast = false;
    flush(chat);
  });
  room.on("error", (fault) => toast(`${name}: ${fault.message}`, "bad"));
  keepRooms();
  showLists();
  return chat;
}

function directChat(userId) {
  const key = `user ${userId}`;
  if (chats.has(key)) return chats.get(key);
  const chat = makeChat(key, `Messages with ${nameOf(userId)}`);
  chat.userId = userId;
  chat.title = () => nameOf(userId);
  chat.deliver = (content) => inbox.send(userId, content);
  showLists();
  return chat;
}

function keepRooms() {
  const rooms = [...chats.values()].filter((chat) => chat.room).map((chat) => chat.room.name);
  sessionStorage.setItem(ROOMS, JSON.stringify(rooms));
}

function add(chat, userId, content, at, isPending = false) {
  const isMine = userId === me.id;
  const isNear = chat.lastBy === userId && at - chat.lastAt < 180_000;
  const line = h(
    "div", { class: `message${isNear ? "" : " head"}${isMine ? " mine" : ""}` },
    face(userId),
    h("span", { class: "by" }, isMine ? "" : h("b", { text: nameOf(userId) }), clock(at)),
    h("span", { class: "text", text: content }),
  );
  line.classList.toggle("pending", isPending);
  const { log } = chat;
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  // Waiting messages stay below sent ones.
  const firstWaiting = chat.outbox.find((one) => one.line)?.line ?? null;
  log.insertBefore(line, isPending ? null : firstWaiting);
  if (!isPending) {
    chat.lastBy = userId;
    chat.lastAt = at;
  }
  while (log.children.length > SHOWN_MAX) log.firstElementChild.remove();
  if (isAtEnd || isMine) log.scrollTop = log.scrollHeight;
  if (!isMine && !chat.isPast && (chat !== current || document.hidden)) {
    chat.unread += 1;
    showLists();
  }
  return line;
}

function mark(chat, text) {
  chat.log.append(h("div", { class: "mark", text }));
  chat.lastBy = null;
}

/** Takes a message to be sent; it stays until the server has it. */
function write(chat, content) {
  const entry = { content, line: null, isBusy: false, isTried: false };
  entry.line = add(chat, me.id, content, new Date(), true);
  chat.outbox.push(entry);
  flush(chat);
}

/** The server has a message of ours: the one that waited longest with this text is done. */
function settle(chat, userId, content) {
  if (userId !== me.id) return;
  // A message that never left cannot have arrived: then the same text came from another window.
  drop(chat, chat.outbox.find((entry) => entry.isTried && entry.content === content));
}

function drop(chat, entry) {
  if (!chat.outbox.includes(entry)) return;
  entry.line.remove();
  chat.outbox.splice(chat.outbox.indexOf(entry), 1);
}

/** Sends waiting messages, in order. One that arrived although its answer was lost is settled already. */
async function flush(chat) {
  const entry = chat.outbox[0];
  if (!entry || entry.isBusy || client.state !== "open") return;
  if (chat.room && chat.room.state !== "live") return;
  entry.isBusy = true;
  entry.isTried = true;
  try {
    await chat.deliver(entry.content);
    drop(chat, entry);
    flush(chat);
  } catch (fault) {
    if (!fault.retry && chat.outbox.includes(entry)) {
      drop(chat, entry);
      toast(`Not sent: ${fault.message}`, "bad");
    } else if (client.state === "open") setTimeout(() => flush(chat), 1_500);
  } finally {
    entry.isBusy = false;
  }
}

function flushAll() {
  for (const chat of chats.values()) flush(chat);
}

function select(chat, pane = "talk") {
  current = chat;
  markRead(chat);
  for (const one of chats.values()) one.log.hidden = one !== chat;
  chat.log.scrollTop = chat.log.scrollHeight;
  setText(byId("t-talk"), chat.room ? `# ${chat.title()}` : chat.title());
  setText(byId("composer-label"), `Message to ${chat.title()}`);
  byId("leave").hidden = !chat.room;
  showMembers();
  showLists();
  showPane(pane);
}

/** By chat: the id of the newest direct message that was read. */
let read = {};

function markRead(chat) {
  if (document.hidden) return;
  chat.unread = 0;
  if (!chat.userId || chat.newestId <= (read[chat.key] ?? "")) return;
  read[chat.key] = chat.newestId;
  try {
    localStorage.setItem(`fanfare-read-${me.id}`, JSON.stringify(read));
  } catch {
    // Then they count as new again after a reload.
  }
}

function showMembers() {
  const { room, userId } = current;
  document.querySelector(".talk-body").classList.toggle("alone", !room);
  byId("members-box").hidden = !room;
  if (!room) {
    const isHere = online.users.has(userId);
    setText(byId("talk-about"), isHere ? "online" : "offline, reads it later");
    return;
  }
  setText(byId("talk-about"), `${room.count} here`);
  const list = [...room.members].sort((a, b) => (a[1] < b[1] ? -1 : 1));
  byId("members").replaceChildren(...list.slice(0, 200).map(([id, name]) => {
    const text = id === me.id ? `${name} (you)` : name;
    return h("li", {}, face(id, true), h("span", { class: "clip", text }));
  }));
}

let isListing = false;
function showLists() {
  if (isListing) return;
  isListing = true;
  setTimeout(() => {
    isListing = false;
    drawLists();
  }, 20);
}

/** One entry a chat; the buttons stay the same, so that the focus does. */
const entries = new Map();

function entry(chat, key, open, sign, title, note) {
  if (!entries.has(key)) {
    const button = h("button", { type: "button", onclick: open });
    entries.set(key, { node: h("li", {}, button), button, face: "" });
  }
  const one = entries.get(key);
  const unread = chat?.unread ?? 0;
  const look = `${title} ${note} ${unread}`;
  if (one.face !== look) {
    one.face = look;
    const parts = [sign(), h("span", { class: "clip", text: title })];
    parts.push(h("span", { class: "sr-only", text: note }));
    if (unread > 0) {
      const words = h("span", { class: "sr-only", text: " unread" });
      parts.push(h("span", { class: "unread" }, String(unread), words));
    }
    one.button.replaceChildren(...parts);
  }
  if (chat && chat === current) one.button.setAttribute("aria-current", "true");
  else one.button.removeAttribute("aria-current");
  return one.node;
}

function place(list, nodes) {
  nodes.forEach((node, at) => {
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
  });
  while (list.children.length > nodes.length) list.lastElementChild.remove();
}

function drawLists() {
  const rooms = [...chats.values()].filter((chat) => chat.room);
  place(byId("rooms"), rooms.map((chat) => entry(
    chat, chat.key, () => select(chat),
    () => h("span", { class: "hash", "aria-hidden": "true", text: "#" }), chat.title(), "",
  )));
  const ids = new Set(online.users.keys());
  for (const chat of chats.values()) if (chat.userId) ids.add(chat.userId);
  ids.delete(me.id);
  const people = [...ids].sort((a, b) =>
    online.users.has(b) - online.users.has(a) || (nameOf(a) < nameOf(b) ? -1 : 1));
  place(byId("people"), people.slice(0, 200).map((id) => {
    const isHere = online.users.has(id);
    const note = isHere ? ", online" : ", offline";
    const open = () => select(directChat(id));
    const sign = () => face(id, isHere);
    return entry(chats.get(`user ${id}`), `user ${id}`, open, sign, nameOf(id), note);
  }));
  byId("no-people").hidden = people.length > 0;
  setText(byId("n-people"), people.length ? `${Math.max(0, online.users.size - 1)} online` : "");
  const unread = [...chats.values()].reduce((sum, chat) => sum + chat.unread, 0);
  document.title = unread > 0 ? `(${unread}) fanfare demo` : "fanfare demo";
  setText(byId("tab-unread"), unread > 0 ? `(${unread})` : "");
  const to = byId("notify-to");
  const wanted = people.filter((id) => online.users.has(id));
  const have = [...to.options].slice(1).map((option) => option.value);
  if (wanted.join() !== have.join()) {
    const chosen = to.value;
    const options = wanted.map((id) => h("option", { value: id, text: nameOf(id) }));
    to.replaceChildren(to.options[0], ...options);
    to.value = wanted.includes(chosen) ? chosen : "";
  }
}

function showPane(pane) {
  document.body.dataset.pane = pane;
  for (const button of document.querySelectorAll(".tabs button")) {
    button.setAttribute("aria-pressed", String(button.dataset.pane === pane));
  }
}
for (const button of document.querySelectorAll(".tabs button")) {
  button.addEventListener("click", () => showPane(button.dataset.pane));
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const { content } = event.target.elements;
  if (content.value.trim() === "") return;
  write(current, content.value);
  content.value = "";
});
byId("add-room").addEventListener("submit", (event) => {
  event.preventDefault();
  const { room } = event.target.elements;
  const name = room.value.trim();
  if (name === "") return;
  select(roomChat(name));
  room.value = "";
});
byId("leave").addEventListener("click", () => {
  const chat = current;
  chat.room.leave();
  chat.log.remove();
  chats.delete(chat.key);
  keepRooms();
  select([...chats.values()].find((one) => one.room) ?? roomChat("general"));
  byId("composer").elements.content.focus();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !current) return;
  markRead(current);
  showLists();
});

// ---- Notifications ----------------------------------------------------------------------------

function showNote(frame) {
  if (frame.message_type !== "notification") return;
  const { data } = frame;
  const said = data?.content ?? data?.text ?? data;
  const text = typeof said === "string" ? said : JSON.stringify(said);
  const by = frame.from_user_id ? nameOf(frame.from_user_id) : "The server";
  const at = clock(new Date(frame.timestamp));
  byId("no-notes").hidden = true;
  byId("notes").prepend(h(
    "div", {}, h("div", { class: "by" }, h("b", { text: by }), at), h("div", { text }),
  ));
  while (byId("notes").children.length > 100) byId("notes").lastElementChild.remove();
  toast(`${by}: ${text}`);
}

byId("notify").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { to, text } = event.target.elements;
  const done = byId("notify-done");
  try {
    const answer = await client.send({
      toUserId: to.value || undefined, messageType: "notification", data: { content: text.value },
    });
    const number = answer.delivered_to;
    setText(done, `Reached ${number} ${number === 1 ? "connection" : "connections"}`);
    text.value = "";
  } catch (fault) {
    setText(done, `Not sent: ${fault.message}`);
  }
});

// ---- Dashboard --------------------------------------------------------------------------------

const visitors = new Chart(byId("c-visitors"), {
  label: "Visitors and orders", legend: byId("l-visitors"),
  series: [
    { key: "visitors", label: "visitors", tone: "accent" },
    { key: "orders", label: "orders", tone: "out" },
  ],
});
const response = new Chart(byId("c-response"), {
  label: "Response time", legend: byId("l-response"),
  format: (value) => (Number.isFinite(value) ? `${Math.round(value)} ms` : "-"),
  series: [{ key: "response_ms", label: "response time", tone: "warn" }],
});

let publishing = null;

function takeMetrics(frame) {
  const { payload } = frame;
  if (frame.event !== "metrics" || payload === null || typeof payload !== "object") return;
  const at = Date.parse(frame.timestamp);
  visitors.push(at, payload);
  response.push(at, payload);
}

async function sendMetrics() {
  const load = Number(byId("load").value);
  const noise = (most) => (Math.random() - 0.5) * most;
  const metrics = {
    visitors: Math.max(0, Math.round(load + noise(8))),
    orders: Math.max(0, Math.round(load / 6 + noise(4))),
    response_ms: Math.max(1, Math.round(20 + (load * load) / 90 + noise(12))),
  };
  try {
    await client.http("POST", "/api/v1/dashboards/demo/metrics", metrics);
    setText(byId("dash-state"), "Sending once a second");
  } catch (fault) {
    const isDenied = fault.status === 403;
    setText(byId("dash-state"), isDenied ? "This server wants the scope publish" : "Waiting");
    if (isDenied) stopMetrics();
  }
}

function stopMetrics() {
  clearInterval(publishing);
  publishing = null;
  byId("publish").setAttribute("aria-pressed", "false");
  setText(byId("publish"), "Send metrics");
}

byId("publish").addEventListener("click", () => {
  if (publishing) {
    stopMetrics();
    setText(byId("dash-state"), "");
    return;
  }
  publishing = setInterval(sendMetrics, 1_000);
  byId("publish").setAttribute("aria-pressed", "true");
  setText(byId("publish"), "Stop sending");
  sendMetrics();
});

// ---- The connection ---------------------------------------------------------------------------

function start() {
  const { sub, username } = claims(session.token);
  me.id = sub;
  me.name = username ?? sub;
  learn(sub, me.name);
  try {
    read = JSON.parse(localStorage.getItem(`fanfare-read-${sub}`)) ?? {};
  } catch {
    read = {};
  }
  client = new FanfareClient({ url: ROOT, token: freshToken });
  client.on("unauthorized", () => {
    if (!session.token) return;
    session.token = null;
    sessionStorage.setItem(REASON, "Sign in again: the token is no longer valid.");
    location.reload();
  });
  client.on("stopped", (fault) => {
    if (!session.token) return;
    setText(byId("notice-text"), `Not connected: ${fault.message}.`);
    byId("notice").hidden = false;
  });
  client.on("welcome", () => (byId("notice").hidden = true));
  client.on("envelope", showNote);
  linkState(byId("link"), client);
  online = client.online();
  online.on("error", (fault) => {
    if (fault.status !== 403) return;
    setText(byId("no-people"), "The online users are shown to tokens with the scope sockets:read.");
  });
  online.on("change", () => {
    for (const user of online.users.values()) learn(user.user_id, user.username);
    showLists();
    if (current?.userId) showMembers();
  });
  inbox = client.inbox();
  inbox.on("message", (message) => {
    if (message.type !== "private") return;
    const isMine = message.from_user_id === me.id;
    const chat = directChat(isMine ? message.to_user_id : message.from_user_id);
    settle(chat, message.from_user_id, message.content);
    chat.isPast = message.id <= (read[chat.key] ?? "");
    if (message.id > chat.newestId) chat.newestId = message.id;
    add(chat, message.from_user_id, message.content, new Date(message.created_at * 1_000));
    if (chat === current) markRead(chat);
  });
  inbox.on("state", (state) => state === "live" && flushAll());
  client.channel("dashboard:demo", { history: 120 }).on("message", takeMetrics);

  byId("welcome").hidden = true;
  byId("app").hidden = false;
  for (const id of ["me", "link", "sign-out"]) byId(id).hidden = false;
  setText(byId("me"), me.name);
  let rooms = [];
  try {
    rooms = JSON.parse(sessionStorage.getItem(ROOMS)) ?? [];
  } catch {
    // Then it begins with the default.
  }
  for (const name of rooms.length > 0 ? rooms : ["general", "lobby"]) roomChat(name);
  select([...chats.values()][0]);
  byId("composer").elements.content.focus();
}

byId("notice-button").addEventListener("click", () => client.reconnect());

if (session.token && claims(session.token).sub) start();
else showWelcome();
