// What a message of a channel costs between nodes, beside the same on a single node.
//
//   node benches/nodes/channels.mjs target/release/fanfare [rounds] [followers] [seconds]
//
// Three measurements, all of them in each round, so that a slow minute meets all alike:
//
// - delay: one publisher over a socket, a message every 4 ms, from its `send` to each of the followers'
//   callbacks, for as long as said;
// - rate: publishers at all three nodes over pipelined HTTP, each channel with one follower at the next
//   node, as fast as they are answered; who was busy stands beside it, this program too: where it is, it
//   has measured itself;
// - bystander: CPU of a node that nobody follows anything at, while RATE (default 20000) messages a second
//   pass between two others, or what comes of it; before that as long at rest.
//
// `--single` leaves the cluster out. Needs Linux, Node 22 or newer and redis-server. A push that does not
// come within 5 s ends it with status 1.

import { connect } from "node:net";

import { inWords, now, open, run, sleep, startRedis, startServer, usage, within } from "./common.mjs";

const isSingle = process.argv.includes("--single");
const [binary, ...numbers] = process.argv.slice(2).filter((word) => word !== "--single");
const [rounds = 3, followers = 100, seconds = 5] = numbers.map(Number);
const wanted = Number(process.env.RATE ?? 20_000);
/** Bytes of a message's payload, for the rates. */
const PAYLOAD = "x".repeat(200);
const PUSH_MS = 5_000;

/** A socket that follows a channel; `hear` gets each frame of it as it came. */
async function follow(server, channel, hear) {
  const socket = await open(server);
  await within(PUSH_MS, new Promise((resolve) => {
    socket.onmessage = resolve;
    socket.send(JSON.stringify({ type: "subscribe", channel }));
  }), () => `${server.name} does not let ${channel} be followed`);
  socket.onmessage = ({ data }) => hear(data);
  return socket;
}

/** Publishes once by HTTP, and waits until each of the followers has heard of it. */
async function prove(from, to, channel, heard) {
  const answer = await fetch(`${from.url}/api/v1/channels/${channel}/messages`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ payload: { n: -1 } }),
  });
  if (answer.status !== 200) {
    throw new Error(`${from.name} answered a publication with ${answer.status}: ${await answer.text()}`);
  }
  await within(PUSH_MS, heard, () =>
    `a push did not arrive within 5 s: published at ${from.name}, followed at ${to.name}, channel ${channel}`);
}

/** A publisher at one node and followers at another, to be measured again and again. */
async function delayed(name, from, to) {
  const channel = `delay-${name.replaceAll(" ", "-")}`;
  let [heard, expected, finished, delays] = [0, followers, undefined, []];
  let sent = new Map();
  const hear = (data) => {
    heard += 1;
    const at = sent.get(JSON.parse(data).payload.n);
    if (at !== undefined) delays.push(now() - at);
    if (heard === expected) finished();
  };
  const first = new Promise((resolve) => { finished = resolve; });
  for (let index = 0; index < followers; index += 1) await follow(to, channel, hear);
  await prove(from, to, channel, first);
  const publisher = await open(from);
  publisher.onmessage = ({ data }) => {
    if (!data.includes('"published"')) throw new Error(`${from.name} answered: ${data}`);
  };
  return async () => {
    const count = Math.round(seconds * 250);
    [heard, expected, delays, sent] = [0, count * followers, [], new Map()];
    const done = new Promise((resolve) => { finished = resolve; });
    for (let n = 0; n < count; n += 1) {
      sent.set(n, now());
      publisher.send(JSON.stringify({ type: "publish", channel, payload: { n } }));
      await sleep(4);
    }
    await within(PUSH_MS, done, () => `${name}: ${heard} of ${expected} pushes came within 5 s of the last`);
    console.log(`delay, ${name}: ${inWords(delays)}, ${delays.length} deliveries`);
  };
}

/** Requests on one connection, many under way at once; `answered` counts them. */
class Pipeline {
  constructor(server, channel) {
    const { hostname, port } = new URL(server.url);
    const body = JSON.stringify({ payload: PAYLOAD });
    this.request = Buffer.from(`POST /api/v1/channels/${channel}/messages HTTP/1.1\r\nHost: ${hostname}\r\n`
      + `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    this.sent = 0;
    this.answered = 0;
    this.depth = 0;
    this.rest = "";
    this.address = [Number(port), hostname];
  }

  /** Anew where it was never used or lay idle for too long: servers close such connections. */
  open() {
    this.link = connect(...this.address).setNoDelay();
    this.rest = "";
    this.link.on("error", (fault) => { this.fault = fault; });
    this.link.on("data", (bytes) => this.read(bytes));
    this.link.on("close", () => {
      this.link = undefined;
      if (this.answered < this.sent) this.fault ??= new Error("a connection ended amid publications");
    });
  }

  /** Counts heads of answers. What may hold the beginning of the next head is kept. */
  read(bytes) {
    const text = this.rest + bytes.toString("latin1");
    let [at, next] = [0, 0];
    while ((next = text.indexOf("HTTP/1.1 ", at)) >= 0 && next + 12 <= text.length) {
      const status = text.slice(next + 9, next + 12);
      if (status !== "200") this.fault ??= new Error(`a publication was answered with ${text.slice(next)}`);
      this.answered += 1;
      at = next + 12;
    }
    this.rest = text.slice(Math.max(at, text.length - 11));
    if (this.depth > 0) this.push(this.depth - (this.sent - this.answered));
  }

  /** Sends so many more. */
  push(count) {
    if (this.fault) throw this.fault;
    if (count <= 0) return;
    if (!this.link) this.open();
    this.sent += count;
    this.link.write(count === 1 ? this.request : Buffer.concat(Array(count).fill(this.request)));
  }
}

/** Sends from pipelines for a while: `rate` a second in all, or as fast as answers come. */
async function publish(pipelines, rate) {
  const start = now();
  const before = pipelines.reduce((sum, one) => sum + one.answered, 0);
  if (rate) {
    let pushed = 0;
    while (now() - start < seconds * 1000) {
      const due = Math.floor(((now() - start) / 1000) * rate) - pushed;
      for (const one of pipelines) {
        // One that cannot keep up is not buried.
        const room = 64 - (one.sent - one.answered);
        const share = Math.min(Math.ceil(due / pipelines.length), room);
        one.push(share);
        pushed += Math.max(share, 0);
      }
      await sleep(2);
    }
  } else {
    for (const one of pipelines) {
      one.depth = 32;
      one.push(one.depth);
    }
    await sleep(seconds * 1000);
    pipelines.forEach((one) => { one.depth = 0; });
  }
  const sent = pipelines.reduce((sum, one) => sum + one.sent, 0);
  const answered = () => pipelines.reduce((sum, one) => sum + one.answered, 0);
  const until = now() + PUSH_MS;
  while (answered() < sent) {
    if (now() > until) throw new Error(`${sent - answered()} publications were not answered within 5 s`);
    await sleep(5);
  }
  return answered() - before;
}

/** Channels from one node to another, each with a publisher and one follower. A connection's requests
 * are answered one after the other, so it takes many to keep a server busy. */
async function lanes(name, from, to, count) {
  const heard = { count: 0 };
  const pipelines = [];
  for (let index = 0; index < count; index += 1) {
    const channel = `${name}-${index}`;
    let told;
    const first = new Promise((resolve) => { told = resolve; });
    await follow(to, channel, () => { heard.count += 1; told(); });
    await prove(from, to, channel, first);
    pipelines.push(new Pipeline(from, channel));
  }
  return { heard, pipelines };
}

/** Publishes, waits for the pushes, and says what that took. */
async function flood(all, processes, rate) {
  const pipelines = all.flatMap((lane) => lane.pipelines);
  const heard = () => all.reduce((sum, lane) => sum + lane.heard.count, 0);
  const before = heard();
  const used = await usage(processes, async () => {
    const published = await publish(pipelines, rate);
    const until = now() + PUSH_MS;
    while (heard() - before < published) {
      if (now() > until) throw new Error(`${heard() - before} of ${published} pushes came within 5 s of the last`);
      await sleep(5);
    }
    return published;
  });
  return { published: used.result, ...used };
}

const cores = ({ cpu, seconds: took }) =>
  Object.entries(cpu).map(([name, spent]) => `${name} ${(spent / took).toFixed(2)}`).join(", ");

function say(name, used) {
  const each = Math.round(used.published / used.seconds);
  console.log(`rate, ${name}: ${each} publications/s, each pushed once; cores busy: ${cores(used)}`);
}

await run(async () => {
  const single = await startServer(binary, "single");
  const measurements = [await delayed("single node", single, single)];
  const alone = [await lanes("rate-single", single, single, 96)];
  measurements.push(async () => say("single node", await flood(alone, [single])));
  if (!isSingle) {
    const redis = await startRedis();
    const nodes = [];
    for (const name of ["one", "two", "three"]) nodes.push(await startServer(binary, name, ...redis.flags));
    const [one, two, three] = nodes;
    measurements.splice(1, 0, await delayed("across two nodes", one, two));
    const ring = [];
    for (const [from, to] of [[one, two], [two, three], [three, one]]) {
      ring.push(await lanes(`rate-${from.name}`, from, to, 32));
    }
    measurements.push(async () => say("three nodes", await flood(ring, [...nodes, redis])));
    // Nobody follows these at the third node; what it follows of the ring is silent meanwhile.
    const past = [await lanes("past-three", one, two, 96)];
    measurements.push(async () => {
      const rest = await usage([three], () => sleep(seconds * 1000));
      const busy = await flood(past, [...nodes, redis], wanted);
      const idle = rest.cpu.three / rest.seconds;
      const more = busy.cpu.three - idle * busy.seconds;
      console.log(`bystander: ${Math.round(busy.published / busy.seconds)} publications/s between two others; the `
        + `third node ${(busy.cpu.three / busy.seconds).toFixed(3)} cores, at rest ${idle.toFixed(3)}, so `
        + `${((more / busy.published) * 1000).toFixed(5)} CPU seconds per 1,000 publications; cores busy: ${cores(busy)}`);
    });
  }
  for (let round = 1; round <= rounds; round += 1) {
    console.log(`round ${round}`);
    for (const measurement of measurements) await measurement();
  }
});
