// fanfare.js in Node against a real server.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { FanfareClient, FanfareError, instanceName, tokenExpiry } from "../../web/fanfare.js";
import { Relay, Server, sign, until } from "./support.mjs";

const SECRET = "a secret of the tests, long enough for HS256";
let server;
let relay;
const clients = [];

function connect(options = {}) {
  const client = new FanfareClient({ url: server.url, ...options });
  clients.push(client);
  return client;
}

before(async () => {
  server = await new Server(["--jwt-secret", SECRET, "--auth", "open"]).start();
  relay = await new Relay(server).start();
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  relay.lose = null;
});

after(async () => {
  await relay.stop();
  await server.stop();
});

const one = (serviceId, instanceId, more = {}) => ({
  regionId: "r1", serviceId, instanceId, ip: "10.0.0.1", port: 80, leaseTtlMs: 600_000, ...more,
});

/** What the registry says must be what the view says. */
async function equalsRegistry(view, serviceId = view.serviceId) {
  const service = await server.discover(serviceId);
  const theirs = new Map(service.instances.map((one) => [instanceName(one), one]));
  assert.equal(view.revision, service.revision);
  assert.equal(view.epoch, service.epoch);
  assert.deepEqual([...view.instances].sort(), [...theirs].sort());
}

const settled = (view, serviceId) =>
  until("the view equals the registry", async () => {
    await equalsRegistry(view, serviceId);
    return view.state === "live";
  });

test("a service is followed: snapshot first, then changes merged", async () => {
  const client = connect();
  await server.register(one("Alpha", "a"));
  const view = client.service("ALPHA");
  assert.equal(client.service("alpha"), view);
  const kinds = [];
  view.on("change", (event) => kinds.push(event.kind));
  await view.ready;
  assert.equal(view.state, "live");
  assert.deepEqual(kinds, ["snapshot"]);
  assert.equal(view.instances.size, 1);
  await server.register(one("alpha", "b"), one("alpha", "c"));
  await server.register(one("alpha", "b", { port: 81 }));
  await server.unregister({ regionId: "r1", serviceId: "alpha", instanceId: "A" });
  await settled(view);
  assert.deepEqual([...view.instances.keys()].sort(), ["r1/b", "r1/c"]);
  assert.equal(view.instances.get("r1/b").port, 81);
  assert.ok(view.ageMs() < 30_000);
});

test("instances are picked by weight, near ones first, in turn", async () => {
  const at = (name, zoneId, more = {}) => one("picked", name, { zoneId, ...more });
  await server.register(
    at("a", "near", { weight: 300 }), at("b", "Near"), at("c", "near", { weight: 0 }),
    at("d", "away"), at("e", "near", { status: "down" }),
  );
  const client = connect({ prefer: { zone: "near", min: 2 } });
  const view = client.service("picked");
  await until("all are known", () => view.instances.size === 5);
  const shares = (picks) => {
    const counts = {};
    for (let i = 0; i < picks; i += 1) {
      const { instanceId } = view.pick();
      counts[instanceId] = (counts[instanceId] ?? 0) + 1;
    }
    return counts;
  };
  assert.deepEqual(shares(400), { a: 300, b: 100 });
  await server.register(at("a", "near", { status: "down" }));
  await until("one is down", () => view.instances.get("r1/a").status === "down");
  assert.deepEqual(shares(100), { b: 50, d: 50 });
  assert.equal(client.service("nobody").pick(), null);
});

test("a stream of changes starts with the snapshot and ends with the view", async () => {
  const client = connect();
  await server.register(one("stream", "a"));
  const view = client.service("stream");
  const seen = [];
  for await (const event of view) {
    seen.push(event.kind);
    if (event.kind === "snapshot") await server.register(one("stream", "b"));
    else view.close();
  }
  assert.deepEqual(seen, ["snapshot", "change"]);
});

test("changes by their name are the same stream, and each has a type", async () => {
  const client = connect();
  await server.register(one("named", "a"));
  const view = client.service("named");
  const seen = [];
  for await (const change of view.changes()) {
    seen.push(change.type, change.kind);
    if (change.type === "snapshot") await server.register(one("named", "b"));
    else view.close();
  }
  assert.deepEqual(seen, ["snapshot", "snapshot", "change", "change"]);
  const all = client.services();
  for await (const { type } of all.changes()) {
    assert.equal(type, "snapshot");
    all.close();
  }
});

test("a subscription that an operator ends and sets again goes on where it stood", async () => {
  const client = connect();
  const view = client.channel("operated");
  await view.ready;
  const seen = [];
  view.on("message", ({ payload }) => seen.push(payload));
  const where = `/api/v1/connections/${client.connectionId}/channels/`;
  const isRefused = view.once("error");
  await server.call("DELETE", `${where}operated`);
  assert.match((await isRefused).message, /operator/);
  assert.equal(view.state, "stale");
  await server.call("POST", "/api/v1/channels/operated/messages", { payload: "missed" });
  await server.call("PUT", `${where}operated`);
  await until("it is live again", () => view.state === "live" && seen.length === 1);
  assert.deepEqual(seen, ["missed"]);
  const isSet = client.once("subscribed");
  await server.call("PUT", `${where}another`);
  assert.equal((await isSet).channel, "another");
});

test("after a cut the view resumes, and misses nothing", async () => {
  const client = connect({ url: relay.url });
  const view = client.service("resumed");
  await view.ready;
  const answers = [];
  client.on("frame", ({ direction, frame }) => {
    if (direction === "in" && frame.type === "subscribed") answers.push(frame);
  });
  const isStale = view.once("state");
  relay.cut();
  await isStale;
  await server.register(one("resumed", "a"), one("resumed", "b"));
  await settled(view);
  assert.equal(answers[0].recovered, true);
  assert.equal(view.instances.size, 2);
});

test("a lost frame is noticed, and what it held is asked for again", async () => {
  const client = connect({ url: relay.url });
  const view = client.service("gaps");
  const all = client.services();
  await Promise.all([view.ready, all.ready]);
  const gaps = [];
  view.on("gap", (gap) => gaps.push(gap));
  all.on("gap", (gap) => gaps.push(gap));
  let isArmed = true;
  relay.lose = (frame) => {
    const isLost = isArmed && frame.type === "service_change" && frame.service_id === "gaps";
    if (isLost) isArmed = false;
    return isLost;
  };
  const before = relay.lost;
  await server.register(one("gaps", "a"));
  await until("the frame was lost", () => relay.lost > before);
  await server.register(one("gaps", "b"));
  await settled(view);
  await until("all services know it", () => all.services.get("gaps")?.revision === view.revision);
  assert.ok(gaps.length >= 2);
  assert.equal(all.services.get("gaps").instances.size, 2);
});

test("all services are one reading and every change since", async () => {
  const client = connect();
  await server.register(one("many-1", "a"), one("many-2", "a"));
  const view = client.services();
  // Changes go on while the reading is under way.
  const writes = [];
  for (let at = 0; at < 20; at += 1) writes.push(server.register(one(`many-${at}`, `x${at}`)));
  await Promise.all([view.ready, ...writes]);
  await until("everything has arrived", () => view.services.get("many-19")?.instances.size === 1);
  for (const known of view.list()) {
    await until(`${known.serviceId} is right`, async () => {
      await equalsRegistry(view.services.get(known.serviceId), known.serviceId);
      return true;
    });
  }
});

test("a server killed and started again is taken up where it stands", async () => {
  const client = connect();
  await server.register(one("killed", "a"));
  const view = client.service("killed");
  const all = client.services();
  const lease = await client.register(one("killed", "kept", { leaseTtlMs: 3_000 }));
  await Promise.all([view.ready, all.ready]);
  await until("the lease is there", () => view.instances.has("r1/kept"));
  await server.kill();
  await until("the view is stale", () => view.state === "stale");
  await server.start();
  await server.register(one("killed", "b"));
  // The last second before a kill may be lost, so the first instance need not be back.
  const isBack = () => view.instances.has("r1/kept") && view.instances.has("r1/b");
  await until("the instances are back", isBack, 40_000);
  await settled(view);
  await until("all services agree", async () => {
    await equalsRegistry(all.services.get("killed"), "killed");
    return all.state === "live";
  });
  const isFresh = () => lease.state === "held" && Date.now() - lease.renewedAt < 2_000;
  await until("the lease is held", isFresh);
});

test("a lease is kept alive past its time, taken up again, and given back", async () => {
  const client = connect();
  const view = client.service("leased");
  await view.ready;
  const lease = await client.register(one("Leased", "a", { leaseTtlMs: 1_000 }));
  const start = Date.now();
  let renewals = 0;
  lease.on("renewed", () => (renewals += 1));
  await until("three leases long", () => Date.now() - start > 3_000 && renewals >= 3);
  assert.equal((await server.discover("leased")).instances.length, 1);
  // The registry forgets it; the next heartbeat finds out.
  const isBack = new Promise((resolve) => lease.on("registered", resolve));
  await server.unregister(lease.key);
  await isBack;
  await until("it is back", () => view.instances.size === 1);
  await lease.update({ port: 99 });
  await until("it has changed", () => view.instances.get("r1/a")?.port === 99);
  await lease.unregister();
  await until("it is gone", () => view.instances.size === 0);
});

test("a wrong instance is refused with a typed error", async () => {
  const client = connect();
  await assert.rejects(client.register({ serviceId: "bad" }), (fault) => {
    assert.ok(fault instanceof FanfareError);
    assert.equal(fault.retry, false);
    return true;
  });
  await assert.rejects(client.call({ type: "nonsense" }), { code: "unknown_type", retry: false });
});

test("a channel delivers in order, and again after a cut", async () => {
  const reader = connect({ url: relay.url });
  const writer = connect();
  const channel = reader.channel("news:order");
  const got = [];
  channel.on("message", (frame) => got.push(frame.payload));
  await channel.ready;
  await writer.publish("news:order", 1);
  await writer.publish("news:order", 2);
  await until("two came", () => got.length === 2);
  const isStale = channel.once("state");
  relay.cut();
  await isStale;
  for (let at = 3; at <= 6; at += 1) await writer.publish("news:order", at);
  await until("all came", () => got.length === 6);
  assert.deepEqual(got, [1, 2, 3, 4, 5, 6]);
  // A lost message is noticed by its offset.
  let isArmed = true;
  relay.lose = (frame) => isArmed && frame.payload === 7 && !(isArmed = false);
  await writer.publish("news:order", 7);
  await writer.publish("news:order", 8);
  await until("the lost one came too", () => got.length === 8);
  assert.deepEqual(got.slice(6), [7, 8]);
  assert.equal(relay.lost > 0, true);
});

test("own messages without an echo are no gap; history comes first", async () => {
  const client = connect();
  const other = connect();
  await other.publish("news:echo", "old");
  const channel = client.channel("news:echo", { history: 10 });
  const got = [];
  const gaps = [];
  channel.on("message", (frame) => got.push(frame.payload));
  channel.on("gap", (gap) => gaps.push(gap));
  await channel.ready;
  await channel.publish("mine", { echo: false });
  await other.publish("news:echo", "theirs");
  await until("theirs came", () => got.includes("theirs"));
  assert.deepEqual(got, ["old", "theirs"]);
  assert.deepEqual(gaps, []);
});

test("a channel whose past is gone says so", async () => {
  const client = connect();
  const channel = client.channel("news:gone", { since: { epoch: "another", offset: 3 } });
  const lost = channel.once("lost");
  await channel.ready;
  assert.equal((await lost).before.offset, 3);
});

test("rooms: members come and go, everyone hears what is said", async () => {
  const [ann, bob] = await Promise.all([server.account("ann-r"), server.account("bob-r")]);
  const first = connect({ token: ann.token, url: relay.url });
  const second = connect({ token: bob.token });
  const roomA = first.room("tea");
  await roomA.ready;
  const roomB = second.room("tea");
  await roomB.ready;
  await until("two members", () => roomA.members.size === 2 && roomB.members.size === 2);
  const heard = [];
  roomA.on("chat", (frame) => heard.push(frame.content));
  const said = await roomB.say("hello");
  assert.equal(said.content, "hello");
  await until("it was heard", () => heard.length === 1);
  const isStale = roomA.once("state");
  relay.cut();
  await isStale;
  await roomB.say("while you were away");
  await until("it was heard later", () => heard.length === 2);
  await until("both are members again", () => roomB.members.size === 2);
  roomB.leave();
  await until("one has left", () => roomA.members.size === 1);
});

test("envelopes are acknowledged and refused by id", async () => {
  const [ann, bob] = await Promise.all([server.account("ann-e"), server.account("bob-e")]);
  const first = connect({ token: async () => ann.token });
  const second = connect({ token: bob.token });
  const online = first.online();
  await Promise.all([first.connect(), second.connect(), online.ready]);
  await until("bob is online", () => online.users.has(bob.userId));
  const got = new Promise((resolve) => second.on("envelope", resolve));
  const answer = await first.send({
    toUserId: bob.userId, messageType: "notification", data: { text: "hi" },
  });
  assert.equal(answer.delivered_to, 1);
  const envelope = await got;
  assert.equal(envelope.from_user_id, ann.userId);
  assert.equal(envelope.data.text, "hi");
  await assert.rejects(first.send({ toUserId: "nobody" }), { code: "not_found" });
  second.close();
  await until("bob has gone", () => !online.users.has(bob.userId));
});

test("direct and group messages arrive once, also those of the time away", async () => {
  const [ann, bob] = await Promise.all([server.account("ann-d"), server.account("bob-d")]);
  const first = connect({ token: ann.token });
  const second = connect({ token: bob.token, url: relay.url });
  const inboxA = first.inbox();
  const inboxB = second.inbox();
  const got = [];
  inboxB.on("message", (message) => got.push(message.content));
  await Promise.all([inboxA.ready, inboxB.ready]);
  await inboxA.send(bob.userId, "one");
  await until("one came", () => got.length === 1);
  const isStale = inboxB.once("state");
  relay.cut();
  await isStale;
  await inboxA.send(bob.userId, "two");
  const group = await first.http("POST", "/api/v1/groups", { name: "g", members: [bob.userId] });
  await inboxA.sendToGroup(group.group_id, "three");
  await until("all came", () => got.length === 3);
  assert.deepEqual(got, ["one", "two", "three"]);
  second.close();
  await inboxA.send(bob.userId, "four");
  await server.kill();
  await server.start();
  const again = connect({ token: bob.token });
  const inbox = again.inbox({ after: inboxB.cursor });
  const late = [];
  inbox.on("message", (message) => late.push(message.content));
  await inbox.ready;
  assert.equal(late.at(-1), "four");
});

test("a token is renewed before its end, and the socket stays", async () => {
  const token = () => sign(SECRET, { sub: "u-refresh", exp: Math.ceil(Date.now() / 1000) + 2 });
  const client = connect({ token });
  await client.connect();
  const id = client.connectionId;
  let refreshes = 0;
  client.on("frame", ({ frame }) => {
    if (frame.type === "refreshed") refreshes += 1;
  });
  await until("it was renewed twice", () => refreshes >= 2);
  assert.equal(client.connectionId, id);
  assert.equal(client.userId, "u-refresh");
  assert.ok(tokenExpiry(await token()) > Date.now());
});

test("an expired token without a source stops the client", async () => {
  const token = await sign(SECRET, { sub: "u-end", exp: Math.ceil(Date.now() / 1000) + 1 });
  const client = connect({ token });
  await client.connect();
  await until("it has stopped", () => client.state === "stopped");
  assert.equal(client.stoppedBy.code, "token_expired");
  const wrong = connect({ token: "not.a.token" });
  await assert.rejects(wrong.connect(), { code: "unauthorized" });
});

test("who was removed by an operator does not return", async () => {
  const client = connect();
  await client.connect();
  await server.call("DELETE", `/api/v1/connections/${client.connectionId}`);
  await until("it has stopped", () => client.state === "stopped");
  assert.equal(client.stoppedBy.code, "removed");
});

test("the next server of the list is tried", async () => {
  const client = connect({ urls: ["http://127.0.0.1:1", server.url] });
  await client.connect();
  assert.equal(client.url, server.url);
});

test("a dead link is noticed without a close", async () => {
  const client = connect({ url: relay.url, pingIntervalMs: 200, pongTimeoutMs: 200 });
  await client.connect();
  const closed = client.once("close");
  relay.lose = (frame) => frame.type === "pong";
  assert.equal((await closed).code, 1006);
  relay.lose = null;
  await until("it is back", () => client.state === "open");
});

test("a server that stops is left, and taken up again when it said", async () => {
  const own = await new Server(["--drain-window", "1s"]).start();
  try {
    const client = connect({ url: own.url });
    const view = client.service("drained");
    await view.ready;
    const told = client.once("reconnect");
    const closed = client.once("close");
    const gone = own.drain();
    const { after_ms: afterMs } = await told;
    assert.equal((await closed).code, 1001);
    const wait = client.nextAttemptAt - Date.now();
    assert.ok(wait <= afterMs && wait > afterMs - 200, `${wait} of ${afterMs}`);
    await gone;
    await own.start();
    await until("it is back", () => view.state === "live", 40_000);
  } finally {
    await own.stop();
  }
});

/** A socket whose server is the test. */
class FakeSocket {
  static made = [];
  /** What a subscription to a channel is answered beyond the usual. */
  static place = null;
  sent = [];

  constructor(url, protocols) {
    this.protocols = protocols;
    FakeSocket.made.push(this);
    setImmediate(() => this.push({ type: "welcome", connection_id: "c", user_id: null }));
  }

  push(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  send(text) {
    const frame = JSON.parse(text);
    this.sent.push(frame);
    const { id, service_id, channel, room } = frame;
    if (frame.type === "join") this.push({ type: "joined", id, room, users: [] });
    if (frame.type !== "subscribe") return;
    const since = frame.since && { recovered: true };
    if (channel) {
      const place = frame.since ?? { epoch: "e", offset: 3 };
      this.push({ type: "subscribed", id, channel, ...place, ...since, ...FakeSocket.place });
      return;
    }
    const state = { epoch: "e", revision: 1, degraded: false, instances: [] };
    this.push({ type: "subscribed", id, service_id, ...state, ...since });
  }

  end(code) {
    this.onclose?.({ code, reason: "" });
  }

  close() {}
}

function fake(options = {}) {
  FakeSocket.made = [];
  FakeSocket.place = null;
  return connect({ WebSocket: FakeSocket, ...options });
}

test("snapshots replace, and a mark alone is told", async () => {
  const client = fake();
  const view = client.service("s");
  await view.ready;
  const socket = FakeSocket.made[0];
  const told = [];
  view.on("change", (event) => told.push([event.kind, event.revision, event.degraded]));
  const instances = [{ serviceId: "s", instanceId: "x" }];
  const base = { service_id: "s", epoch: "e" };
  const calm = { type: "service_change", ...base, degraded: false };
  const change = (more) => socket.push({ ...calm, ...more });
  change({ from: 1, revision: 1, changes: [], degraded: true });
  socket.push({ type: "service_snapshot", ...base, revision: 42, instances, degraded: true });
  const changes = [{ instance: instances[0], changeType: "delete", reason: "expired" }];
  change({ from: 42, revision: 43, changes });
  assert.deepEqual(told, [["degraded", 1, true], ["snapshot", 42, true], ["change", 43, false]]);
  assert.equal(view.instances.size, 0);
  // The same frame again is old; another epoch means that all has to be asked for anew.
  change({ from: 42, revision: 43, changes });
  assert.equal(told.length, 3);
  const asked = socket.sent.length;
  change({ epoch: "f", from: 43, revision: 44, changes });
  assert.deepEqual(socket.sent[asked].since, { epoch: "e", revision: 43 });
});

/** What a channel or a room is told, in short, and how its server says it. */
async function followed(view, channel) {
  await view.ready;
  const told = [];
  const log = (event, short) => view.on(event, (what) => told.push(short(what)));
  log("message", (frame) => frame.offset);
  log("gap", () => "gap");
  log("state", (state) => state);
  log("lost", ({ epoch, offset, before }) => [before.epoch, before.offset, epoch, offset].join(" "));
  const socket = FakeSocket.made[0];
  const push = (...offsets) => {
    for (const offset of offsets) {
      socket.push({ type: "json", channel, offset, message_id: `m${offset}`, payload: offset });
    }
  };
  const move = (epoch, offset, more) =>
    socket.push({ type: "subscribed", channel, epoch, offset, recovered: false, ...more });
  return { told, socket, push, move };
}

test("a channel that lost messages goes on from where the server says", async () => {
  const client = fake();
  const view = client.channel("c");
  const { told, push, move } = await followed(view, "c");
  push(4);
  move("e2", 12);
  push(13);
  // The same news again are old; a late answer is none; more of the same epoch may be lost.
  move("e2", 12);
  move("e9", 9, { id: "late" });
  move("e2", 400);
  push(401);
  assert.deepEqual(told, [4, "e 4 e2 12", 13, "e2 13 e2 400", 401]);
  assert.equal(view.state, "live");
  FakeSocket.made[0].end(1006);
  await until("it is back", () => FakeSocket.made[1]?.sent.length === 1);
  assert.deepEqual(FakeSocket.made[1].sent[0].since, { epoch: "e2", offset: 401 });
});

test("a room that lost messages says so and stays joined", async () => {
  const client = fake();
  const room = client.room("tea");
  const { told, socket, push, move } = await followed(room, "chat:tea");
  push(4);
  move("e2", 12);
  push(13);
  assert.deepEqual(told, [4, "e 4 e2 12", 13]);
  assert.equal(room.state, "live");
  assert.equal(socket.sent.filter((frame) => frame.type === "join").length, 1);
});

test("messages lost while a gap is being closed are told by the answer", async () => {
  const client = fake();
  const { told, socket, push, move } = await followed(client.channel("c"), "c");
  const send = socket.send;
  socket.send = (text) => {
    move("e2", 12);
    push(13);
    FakeSocket.place = { epoch: "e2", offset: 13, recovered: false };
    send.call(socket, text);
  };
  push(5, 14);
  assert.deepEqual(told, ["gap", "stale", "e 3 e2 13", "live", 14]);
});

test("after a loss the history is read anew, and what comes meanwhile waits", async () => {
  const asked = [];
  let answer;
  const fetch = (url) => {
    asked.push(url);
    return new Promise((resolve) => (answer = (value) => resolve(Response.json(value))));
  };
  const client = fake({ fetch });
  const view = client.channel("c", { history: 2 });
  await until("the history is asked for", () => answer);
  answer({ epoch: "e", messages: [] });
  const { told, push, move } = await followed(view, "c");
  const heldBack = (offset) => ({ offset, message_id: `m${offset}` });
  move("e2", 12);
  push(13);
  move("e3", 1);
  push(2);
  assert.match(asked[1], /after=10&limit=2/);
  answer({ epoch: "e2", messages: [11, 12].map(heldBack) });
  await until("the history is asked for again", () => asked.length === 3);
  assert.deepEqual(told, ["e 3 e2 12", 11, 12, 13, "e2 13 e3 1"]);
  answer({ epoch: "e3", messages: [1].map(heldBack) });
  await until("all came", () => told.length === 7);
  assert.deepEqual(told.slice(5), [1, 2]);
  assert.equal(view.offset, 2);
});

test("close codes are obeyed", async () => {
  const soon = [0, 600];
  const later = [5_000, 5_600];
  const waits = { 1006: soon, 1011: soon, 4408: soon, 4409: later, 4410: soon, 4429: later };
  for (const [code, [least, most]] of Object.entries(waits)) {
    const client = fake();
    await client.connect();
    FakeSocket.made[0].end(Number(code));
    await until("it waits", () => client.state === "waiting" && client.nextAttemptAt);
    const wait = client.nextAttemptAt - Date.now();
    assert.ok(wait > least - 50 && wait < most, `${code}: ${wait}`);
    client.close();
  }
  const tokens = ["one", "two"];
  const client = fake({ token: async () => tokens.shift() });
  await client.connect();
  FakeSocket.made[0].end(4401);
  await until("it came back with another token", () => FakeSocket.made[1]);
  assert.deepEqual(FakeSocket.made[1].protocols, ["fanfare", "bearer.two"]);
});

test("a Node that is too old is told so at once", () => {
  for (const name of ["WebSocket", "fetch"]) {
    const there = globalThis[name];
    try {
      globalThis[name] = undefined;
      const make = () => new FanfareClient({ url: server.url });
      const version = process.version.replaceAll(".", "\\.");
      const words = new RegExp(`no ${name} here.*Node 22 or newer.*${version}`);
      assert.throws(make, words);
      // Who brings one along needs no newer Node.
      assert.ok(new FanfareClient({ url: server.url, [name]: there }));
    } finally {
      globalThis[name] = there;
    }
  }
});

test("users are found and written to by name", async () => {
  const bob = await server.account("Bob the Builder");
  const ann = await server.account("Ann of Green");
  const client = connect({ token: ann.token });
  assert.deepEqual(await client.user("bob THE builder"), {
    user_id: bob.userId, username: "Bob the Builder",
  });
  assert.equal(await client.user("nobody at all"), null);
  const other = connect({ token: bob.token });
  await other.connect();
  const heard = other.once("envelope");
  const sent = await client.send({ toUserId: "name:Bob the Builder", data: { content: "hi" } });
  assert.equal(sent.delivered_to, 1);
  assert.equal((await heard).data.content, "hi");
  const inbox = client.inbox();
  await inbox.ready;
  const message = await inbox.send("name:bob the builder", "kept");
  assert.equal(message.to_user_id, bob.userId, "everyone who is written to has an id");
  await assert.rejects(inbox.send("name:nobody at all", "x"), { code: "not_found" });
});

test("a URL may have a path", async () => {
  const below = await new Server(["--base-path", "/push"]).start();
  try {
    for (const url of [
      `${below.url}/push`, `${below.url}/push/`, `${below.url}/push/ws`,
      `${below.url.replace("http", "ws")}/push/ws`,
    ]) {
      const client = connect({ url });
      await client.channel("news").ready;
      assert.equal(client.url, `${below.url}/push`);
      assert.ok((await client.http("GET", "/api/v1/channels")).channels);
      client.close();
    }
  } finally {
    await below.stop();
  }
});
