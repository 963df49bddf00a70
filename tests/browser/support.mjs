// What the tests share: a server to kill, a relay to lose frames in, bounded waiting.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const WEB = path.join(ROOT, "web");
const BIN = process.env.FANFARE_BIN ?? path.join(ROOT, "target/release/fanfare");

/** Asks again and again until the answer is truthy; fails with what was asked. */
export async function until(what, ask, limitMs = 15_000) {
  const end = Date.now() + limitMs;
  let last;
  for (;;) {
    try {
      last = await ask();
      if (last) return last;
    } catch (fault) {
      last = fault;
    }
    if (Date.now() > end) throw new Error(`not in time: ${what} (last: ${last})`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** A server of one's own: `--bind 127.0.0.1:0` in a directory of its own. */
export class Server {
  #child = null;
  #flags;
  port = 0;

  constructor(flags = []) {
    this.#flags = flags;
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), "fanfare-browser-"));
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts it; after the first time on the same port. */
  async start() {
    const bind = `127.0.0.1:${this.port}`;
    const flags = ["--bind", bind, "--data-dir", this.dir, "--shards", "2", ...this.#flags];
    const child = spawn(BIN, flags, { stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    const log = fs.createWriteStream(path.join(this.dir, "server.log"), { flags: "a" });
    child.stderr.pipe(log);
    const line = await new Promise((resolve, reject) => {
      let text = "";
      child.stdout.on("data", (chunk) => {
        text += chunk;
        if (text.includes("\n")) resolve(text.split("\n")[0]);
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
    });
    const found = /^fanfare listening on http:\/\/127\.0\.0\.1:(\d+)$/.exec(line);
    if (!found) throw new Error(`unexpected first line: ${line}`);
    this.port = Number(found[1]);
    return this;
  }

  async #end(signal) {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await gone;
  }

  kill() {
    return this.#end("SIGKILL");
  }

  /** Asks it to stop; it says goodbye to every socket. */
  drain() {
    return this.#end("SIGTERM");
  }

  /** Ends it for good. */
  async stop() {
    await this.kill();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  /** Calls its HTTP API. */
  async call(method, where, body, token) {
    const headers = {};
    if (body !== undefined) headers["content-type"] = "application/json";
    if (token) headers.authorization = `Bearer ${token}`;
    const text = body === undefined ? undefined : JSON.stringify(body);
    const answer = await fetch(this.url + where, { method, headers, body: text });
    const value = await answer.text();
    return { status: answer.status, body: value === "" ? null : JSON.parse(value) };
  }

  async register(...instances) {
    const { body } = await this.call("POST", "/api/registry/register.json", { instances });
    if (body.responseStatus.status !== "success") throw new Error(JSON.stringify(body));
  }

  async unregister(...instanceKeys) {
    await this.call("POST", "/api/registry/unregister.json", { instanceKeys });
  }

  async discover(serviceId) {
    const query = encodeURIComponent(serviceId);
    const { body } = await this.call("GET", `/api/discovery/service.json?serviceId=${query}`);
    return body.service;
  }

  /** Gives an account scopes, as an operator does. */
  grant(username, scope) {
    const who = ["user", "scope", "--name", username, scope];
    execFileSync(BIN, [...who, "--data-dir", this.dir], { stdio: "ignore" });
  }

  /** An account and a token. */
  async account(username, password = "correct horse") {
    const made = await this.call("POST", "/api/v1/users/register", { username, password });
    if (made.status !== 201) throw new Error(JSON.stringify(made));
    const { body } = await this.call("POST", "/api/v1/users/login", { username, password });
    return { username, password, userId: body.user_id, token: body.token };
  }
}

const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
  + "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
  + "frame-ancestors 'none'";
const TYPES = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
  json: "application/json",
};
const PAGES = { "/": "index.html", "/demo": "demo.html", "/docs": "docs.html" };

/** A certificate for `localhost` that nobody trusts, as `{ key, cert }`; null without openssl. */
export function certificate() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "fanfare-tls-"));
  const [key, cert] = ["key.pem", "cert.pem"].map((name) => path.join(dir, name));
  const made = spawnSync("openssl", [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
    "-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", cert,
  ]);
  const pair = made.status === 0
    ? { key: fs.readFileSync(key), cert: fs.readFileSync(cert) }
    : null;
  fs.rmSync(dir, { recursive: true, force: true });
  return pair;
}

/** A web server with pages of its own: an origin that is not the server's. */
export class Pages {
  #server;
  #pages;

  constructor(pages) {
    this.#pages = pages;
    this.#server = http.createServer((request, response) => {
      const page = this.#pages[request.url.split("?")[0]];
      response.writeHead(page === undefined ? 404 : 200, { "content-type": TYPES.html });
      response.end(page ?? "");
    });
  }

  async start(port = 0) {
    await new Promise((resolve) => this.#server.listen(port, "127.0.0.1", resolve));
    this.port = this.#server.address().port;
    this.url = `http://localhost:${this.port}`;
    return this;
  }

  async stop() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function pageFile(where) {
  if (where === "/openapi.json") {
    return path.join(ROOT, "tests/browser/openapi.sample.json");
  }
  const name = PAGES[where] ?? where.slice(1);
  const isPage = PAGES[where] || where.startsWith("/assets/") || where.startsWith("/fanfare.");
  if (!isPage || name.includes("..")) return null;
  const file = path.join(WEB, name);
  return fs.existsSync(file) ? file : null;
}

/**
 * A relay in front of a server. It passes bytes on, can serve the pages itself, and loses the
 * server's WebSocket frames that `lose` says yes to. With `tls` it is an end of TLS; `rewrite` turns a
 * path into the one that the server is asked for, or into null for what is somebody else's.
 */
export class Relay {
  #server;
  #sockets = new Set();
  lose = null;
  lost = 0;

  constructor(upstream, { pages = false, tls = null, rewrite = (url) => url } = {}) {
    this.scheme = tls ? "https" : "http";
    const serve = (request, response) => {
      request.url = rewrite(request.url);
      if (request.url === null) {
        response.writeHead(200, { "content-type": "text/plain" });
        response.end("somebody else's");
        return;
      }
      const where = request.url.split("?")[0];
      const file = pages && request.method === "GET" ? pageFile(where) : null;
      if (file) {
        response.writeHead(200, {
          "content-type": TYPES[file.split(".").pop()] ?? "application/octet-stream",
          "content-security-policy": CSP,
          "cache-control": "no-cache",
        });
        response.end(fs.readFileSync(file));
        return;
      }
      const { method, headers, url } = request;
      const options = { host: "127.0.0.1", port: upstream.port, method, headers, path: url };
      const onward = http.request({ ...options, agent: false }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      onward.on("error", () => {
        if (!response.headersSent) response.writeHead(502);
        response.end();
      });
      request.pipe(onward);
    };
    this.#server = tls ? https.createServer(tls, serve) : http.createServer(serve);
    this.#server.on("upgrade", (request, socket, head) => {
      request.url = rewrite(request.url) ?? "/somebody-else";
      const onward = net.connect(upstream.port, "127.0.0.1");
      const lines = [`${request.method} ${request.url} HTTP/1.1`];
      for (let at = 0; at < request.rawHeaders.length; at += 2) {
        // Compressed frames could not be read here.
        if (/^sec-websocket-extensions$/i.test(request.rawHeaders[at])) continue;
        lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
      }
      onward.write(`${lines.join("\r\n")}\r\n\r\n`);
      if (head.length > 0) onward.write(head);
      const sieve = new Sieve((text) => {
        const isLost = Boolean(this.lose?.(JSON.parse(text)));
        if (isLost) this.lost += 1;
        return isLost;
      });
      onward.on("data", (chunk) => {
        const kept = sieve.pass(chunk);
        if (kept.length > 0) socket.write(kept);
      });
      socket.pipe(onward);
      const end = () => {
        socket.destroy();
        onward.destroy();
        this.#sockets.delete(socket);
      };
      for (const one of [socket, onward]) one.on("error", end).on("close", end);
      this.#sockets.add(socket);
    });
  }

  async start(port = 0) {
    await new Promise((resolve) => this.#server.listen(port, "127.0.0.1", resolve));
    this.port = this.#server.address().port;
    this.url = `${this.scheme}://127.0.0.1:${this.port}`;
    return this;
  }

  /** Cuts all sockets without a word. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop() {
    this.cut();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Splits what a server sends into WebSocket frames and leaves some out. */
class Sieve {
  #isOpen = false;
  #rest = Buffer.alloc(0);
  #loses;

  constructor(loses) {
    this.#loses = loses;
  }

  pass(chunk) {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const kept = [];
    if (!this.#isOpen) {
      const end = this.#rest.indexOf("\r\n\r\n");
      if (end < 0) return Buffer.alloc(0);
      kept.push(this.#rest.subarray(0, end + 4));
      this.#rest = this.#rest.subarray(end + 4);
      this.#isOpen = true;
    }
    for (;;) {
      const frame = this.#frame();
      if (!frame) return Buffer.concat(kept);
      const isText = (frame.bytes[0] & 0x0f) === 1;
      if (!isText || !this.#loses(frame.payload.toString())) kept.push(frame.bytes);
    }
  }

  #frame() {
    const bytes = this.#rest;
    if (bytes.length < 2) return null;
    let head = 2;
    let length = bytes[1] & 0x7f;
    if (length === 126) {
      if (bytes.length < 4) return null;
      length = bytes.readUInt16BE(2);
      head = 4;
    } else if (length === 127) {
      if (bytes.length < 10) return null;
      length = Number(bytes.readBigUInt64BE(2));
      head = 10;
    }
    if (bytes.length < head + length) return null;
    this.#rest = bytes.subarray(head + length);
    const end = head + length;
    return { bytes: bytes.subarray(0, end), payload: bytes.subarray(head, end) };
  }
}

/** Starts a server and, where FANFARE_PAGES=proxy says so, a relay that serves the pages. */
export async function site(flags = []) {
  const server = await new Server(flags).start();
  if (process.env.FANFARE_PAGES !== "proxy") {
    return { server, url: server.url, stop: () => server.stop() };
  }
  const relay = await new Relay(server, { pages: true }).start();
  const stop = async () => {
    await relay.stop();
    await server.stop();
  };
  return { server, url: relay.url, stop };
}

/** A token that a server with `--jwt-secret` takes. */
export function sign(secret, claims) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}
