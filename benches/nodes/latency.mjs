// From a registration at one node to the push at another, beside the same on a single node.
//
//   node benches/nodes/latency.mjs target/release/fanfare [events] [followers] [instances]
//
// Then registrations a second; the same where so many instances are registered, and how long a node
// takes that joins these.
//
// Needs Node 22 or newer and redis-server. Starts everything itself, on free ports.

import { inWords, now, open, run, sleep, startRedis, startServer, usage } from "./common.mjs";

const [binary, events = "2000", followers = "100", instances = "100000"] = process.argv.slice(2);

async function measure(name, from, to) {
  const publisher = await open(from);
  const sent = new Map();
  const delays = [];
  let finished;
  const done = new Promise((resolve) => { finished = resolve; });
  const expected = Number(events) * Number(followers);
  for (let index = 0; index < Number(followers); index += 1) {
    const socket = await open(to);
    await new Promise((resolve) => {
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "subscribed") return resolve();
        if (frame.type !== "service_change") return undefined;
        for (const { instance } of frame.changes) {
          const at = sent.get(instance.metadata.n);
          if (at !== undefined) delays.push(now() - at);
        }
        if (delays.length === expected) finished();
        return undefined;
      };
      socket.send(JSON.stringify({ type: "subscribe", service_id: name }));
    });
  }
  for (let n = 0; n < Number(events); n += 1) {
    sent.set(n, now());
    publisher.send(JSON.stringify({ type: "register", instances: [
      { serviceId: name, instanceId: "a", metadata: { n } }] }));
    await sleep(4);
  }
  await done;
  console.log(`${name}: ${inWords(delays)}, ${delays.length} deliveries`);
}

/** Registrations a second, many at once, each answered. */
async function rate(name, server, each = 300) {
  const start = now();
  const sockets = await Promise.all(Array.from({ length: 64 }, () => open(server)));
  let answered = 0;
  await Promise.all(sockets.map((socket, index) => new Promise((resolve) => {
    let left = each;
    const next = () => socket.send(JSON.stringify({ type: "register", instances: [
      { serviceId: `rate-${index}`, instanceId: "a", metadata: { left } }] }));
    socket.onmessage = () => {
      answered += 1;
      left -= 1;
      if (left === 0) resolve(); else next();
    };
    next();
  })));
  console.log(`${name}: ${Math.round(answered / ((now() - start) / 1000))} registrations/s, 64 at once`);
  sockets.forEach((socket) => socket.close());
}

/** Registers so many instances of some services. */
async function fill(server, count) {
  const batch = 500;
  for (let from = 0; from < count; from += batch) {
    const list = Array.from({ length: Math.min(batch, count - from) }, (_, index) => ({
      regionId: "r1", zoneId: "z1", serviceId: `filled-${Math.floor(from / batch) % 50}`,
      instanceId: `i${from + index}`, ip: "10.0.0.1", port: 8080, protocol: "http", status: "up",
      url: `http://10.0.0.1:8080/i${from + index}`, metadata: { weight: 1 } }));
    const answer = await fetch(`${server.url}/api/registry/register.json`, { method: "POST",
      headers: { "content-type": "application/json" }, body: JSON.stringify({ instances: list }) });
    if (answer.status !== 200) throw new Error(`not registered: ${await answer.text()}`);
  }
}

await run(async () => {
  const single = await startServer(binary, "single");
  const redis = await startRedis();
  const one = await startServer(binary, "one", ...redis.flags);
  const two = await startServer(binary, "two", ...redis.flags);
  await measure("single node", single, single);
  await measure("same node of two", one, one);
  await measure("across two nodes", one, two);
  await rate("single node", single);
  await rate("one of two nodes", one);
  await fill(one, Number(instances));
  const { seconds, cpu } = await usage([redis, one, two], () =>
    rate(`one of two nodes, ${instances} instances`, one, 2500));
  const cores = Object.entries(cpu).map(([name, used]) => `${name} ${(used / seconds).toFixed(2)}`);
  console.log(`cores busy: ${cores.join(", ")}`);
  const joins = now();
  await startServer(binary, "three", ...redis.flags);
  console.log(`a node that joins is ready after ${Math.round(now() - joins)} ms`);
});
