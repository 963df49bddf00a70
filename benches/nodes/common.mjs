// What the measurements of several nodes have in common: starting everything on free ports, clocks, and
// what processes use.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const dir = mkdtempSync(join(tmpdir(), "fanfare-nodes-"));
const children = [];

/** Runs a measurement, and ends everything that it started. */
export async function run(measurement) {
  let status = 0;
  try {
    await measurement();
  } catch (fault) {
    console.error(fault.message ?? fault);
    status = 1;
  } finally {
    children.forEach((child) => child.kill("SIGKILL"));
    rmSync(dir, { recursive: true, force: true });
  }
  process.exit(status);
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** A server with one shard that is ready: its name, URL and process. */
export async function startServer(binary, name, ...flags) {
  const child = spawn(binary, ["--bind", "127.0.0.1:0", "--data-dir", join(dir, name), "--shards", "1",
    "--jwt-secret", "a secret of more than thirty-two bytes", "--auth", "open", "--client-messages-per-s-max", "0", ...flags],
    { stdio: ["ignore", "pipe", "ignore"] });
  children.push(child);
  for await (const line of createInterface({ input: child.stdout })) {
    const url = line.split(" ").at(-1);
    for (let tries = 0; tries < 1000; tries += 1) {
      const ready = await fetch(`${url}/ready`);
      if (ready.status === 200) return { name, url, pid: child.pid };
      await sleep(10);
    }
    throw new Error(`${name} is not ready after 10 s`);
  }
  throw new Error(`${name} did not start: ${binary}`);
}

/** A Redis of its own: its process, and the flags with which nodes find it. `REDIS_FSYNC` is its fsync. */
export async function startRedis() {
  const port = await freePort();
  const fsync = process.env.REDIS_FSYNC ?? "everysec";
  const child = spawn("redis-server", ["--bind", "127.0.0.1", "--port", String(port), "--save", "",
    "--appendonly", "yes", "--appendfsync", fsync, "--dir", dir], { stdio: "ignore" });
  children.push(child);
  return { name: "redis", pid: child.pid, flags: ["--redis-url", `redis://127.0.0.1:${port}`] };
}

/** A socket that was welcomed. */
export function open({ url }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
    socket.onmessage = () => resolve(socket);
    socket.onerror = () => reject(new Error(`no socket at ${url}`));
  });
}

/** Milliseconds of a clock that only runs forward. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

export const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** What a promise says within some time, else a fault. */
export function within(ms, promise, complaint) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(complaint())), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The value below which a share of the sorted values lies. */
export const quantile = (sorted, share) => sorted[Math.floor((sorted.length - 1) * share)];

/** Delays in words. */
export function inWords(delays) {
  const sorted = Float64Array.from(delays).sort();
  return `p50 ${quantile(sorted, 0.5).toFixed(2)} ms, p99 ${quantile(sorted, 0.99).toFixed(2)} ms`;
}

/** CPU seconds of a process so far, of its user and of the kernel for it. The kernel counts in 10 ms. */
export function cpuSeconds({ pid }) {
  // The name in parentheses may hold spaces.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Cores that processes keep busy while something runs, by their names, and how long that took. */
export async function usage(processes, something) {
  const self = { name: "this program", pid: process.pid };
  const all = [...processes, self];
  const [start, before] = [now(), all.map(cpuSeconds)];
  const result = await something();
  const seconds = (now() - start) / 1000;
  const cpu = Object.fromEntries(all.map((one, index) => [one.name, cpuSeconds(one) - before[index]]));
  return { result, seconds, cpu };
}
