// From a registration at one node to the push at another, beside the same on a single node.
//
//   node benches/nodes/latency.mjs target/release/fanfare [events] [followers]
//
// Needs Node 22 or newer and redis-server. Starts everything itself, on free ports.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [binary, events = "2000", followers = "100"] = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), "fanfare-nodes-"));
const children = [];

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function startServer(name, ...flags) {
  const child = spawn(binary, ["--bind", "127.0.0.1:0", "--data-dir", join(dir, name), "--shards", "1",
    "--jwt-secret", "a secret of more than thirty-two bytes", "--client-messages-per-s-max", "0", ...flags],
    { stdio: ["ignore", "pipe", "ignore"] });
  children.push(child);
  for await (const line of createInterface({ input: child.stdout })) {
    const url = line.split(" ").at(-1);
    for (;;) {
      const ready = await fetch(`${url}/ready`);
      if (ready.status === 200) return url;
    }
  }
}

function open(url) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
    socket.onmessage = () => resolve(socket);
    socket.onerror = reject;
  });
}

const now = () => Number(process.hrtime.bigint()) / 1e6;

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
    await new Promise((resolve) => { setTimeout(resolve, 4); });
  }
  await done;
  delays.sort((a, b) => a - b);
  const at = (share) => delays[Math.floor((delays.length - 1) * share)].toFixed(2);
  console.log(`${name}: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, ${delays.length} deliveries`);
}

/** Registrations a second, many at once, each answered. */
async function rate(name, url) {
  const start = now();
  const sockets = await Promise.all(Array.from({ length: 64 }, () => open(url)));
  let answered = 0;
  await Promise.all(sockets.map((socket, index) => new Promise((resolve) => {
    let left = 300;
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

try {
  const single = await startServer("single");
  const port = await freePort();
  const fsync = process.env.REDIS_FSYNC ?? "everysec";
  children.push(spawn("redis-server", ["--bind", "127.0.0.1", "--port", String(port), "--save", "",
    "--appendonly", "yes", "--appendfsync", fsync, "--dir", dir], { stdio: "ignore" }));
  const redis = ["--redis-url", `redis://127.0.0.1:${port}`];
  const one = await startServer("one", ...redis);
  const two = await startServer("two", ...redis);
  await measure("single node", single, single);
  await measure("same node of two", one, one);
  await measure("across two nodes", one, two);
  await rate("single node", single);
  await rate("one of two nodes", one);
} finally {
  children.forEach((child) => child.kill("SIGKILL"));
  rmSync(dir, { recursive: true, force: true });
}
process.exit(0);
