// Pages of all origins in a real browser: which of them may call, and what they see where they may
// not. What docs/browsers.md says is tried here.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import puppeteer from "puppeteer-core";

import { Pages, Relay, Server, certificate, until } from "./support.mjs";

let browser;
const running = [];

/** Stopped after the tests, the last one first. */
async function start(what, ...args) {
  const started = await what.start(...args);
  running.push(started);
  return started;
}

before(async () => {
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--ignore-certificate-errors",
    ],
  });
});

after(async () => {
  await browser?.close();
  for (const one of running.reverse()) await one.stop();
});

/** A page in a context of its own. */
async function open(where) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => message.type() === "error" && said.push(message.text()));
  page.on("pageerror", (fault) => said.push(String(fault)));
  const response = await page.goto(where);
  return { page, context, said, response };
}

/** What a page can do with a server: each as `ok`, or as what it was told. */
const trial = (page, url) => page.evaluate(async (url) => {
  const attempt = async (what) => {
    try {
      return (await what()) ?? "ok";
    } catch (fault) {
      return `${fault.name}: ${fault.message}`;
    }
  };
  // With this type the browser asks first.
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ payload: "hello" });
  return {
    origin: self.origin,
    read: await attempt(async () => {
      const answer = await fetch(`${url}/api/discovery/services.json`);
      await answer.json();
    }),
    write: await attempt(async () => {
      const where = `${url}/api/v1/channels/news/messages`;
      const answer = await fetch(where, { method: "POST", headers, body });
      return answer.ok ? "ok" : String(answer.status);
    }),
    library: await attempt(async () => {
      const { FanfareClient } = await import(`${url}/fanfare.js`);
      const client = new FanfareClient({ url });
      await client.channel("news").ready;
      client.close();
    }),
    socket: await attempt(() => new Promise((resolve) => {
      const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`);
      socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
      socket.onclose = ({ code }) => resolve(`closed ${code}`);
    })),
  };
}, url);

const EMPTY = "<!doctype html><title>a page</title>";

function allowed(result) {
  const { read, write, library, socket } = result;
  const expected = { read: "ok", write: "ok", library: "ok", socket: "welcome" };
  assert.deepEqual({ read, write, library, socket }, expected, result.origin);
}

function refused(result) {
  const { read, write, library, socket } = result;
  for (const seen of [read, write, library]) assert.match(seen, /^TypeError: /, result.origin);
  assert.equal(socket, "closed 1006", result.origin);
}

test("localhost and 127.0.0.1 are one server, also across each other", async () => {
  const server = await start(new Server());
  const names = ["localhost", "127.0.0.1"].map((name) => `http://${name}:${server.port}`);
  for (const [at, page] of names.entries()) {
    const { page: tab, context, said } = await open(`${page}/`);
    await tab.waitForSelector("#link[data-state=open]");
    assert.deepEqual(said, [], page);
    await context.close();
    // Not from the console itself, whose policy keeps it to its own origin.
    const plain = await open(`${page}/health`);
    allowed(await trial(plain.page, page));
    allowed(await trial(plain.page, names[1 - at]));
    await plain.context.close();
  }
});

test("a page of another port is let in by its exact origin, and by nothing else", async () => {
  const pages = await start(new Pages({ "/": EMPTY }));
  const shut = await start(new Server());
  const { page, context } = await open(pages.url);
  refused(await trial(page, shut.url));
  assert.equal((await shut.call("GET", "/api/v1/channels")).body.channels.length, 0, "written");
  const listed = await start(new Server(["--allowed-origins", `https://app.example,${pages.url}`]));
  allowed(await trial(page, listed.url));
  // The same page by another name is another origin.
  const other = await open(pages.url.replace("localhost", "127.0.0.1"));
  refused(await trial(other.page, listed.url));
  await context.close();
  await other.context.close();
});

test("a refused page hears the likely reason from the client", async () => {
  const pages = await start(new Pages({ "/": EMPTY }));
  const shut = await start(new Server());
  const open_ = await start(new Server(["--allowed-origins", pages.url]));
  const { page, context } = await open(pages.url);
  const told = await page.evaluate(async (from, url) => {
    const { FanfareClient } = await import(`${from}/fanfare.js`);
    const client = new FanfareClient({ url });
    const fault = client.once("error");
    client.connect();
    const { code, message } = await fault;
    client.close();
    return { code, message };
  }, open_.url, shut.url);
  assert.equal(told.code, "network");
  assert.ok(told.message.includes(`--allowed-origins lacks ${pages.url}`), told.message);
  await context.close();
});

test("a page opened as a file is let in by null", async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "fanfare-file-"));
  const file = path.join(dir, "page.html");
  fs.writeFileSync(file, EMPTY);
  const where = pathToFileURL(file).href;
  const shut = await start(new Server(["--allowed-origins", "https://app.example"]));
  const open_ = await start(new Server(["--allowed-origins", "null"]));
  const { page, context } = await open(where);
  assert.equal((await trial(page, shut.url)).origin, "null");
  refused(await trial(page, shut.url));
  allowed(await trial(page, open_.url));
  await context.close();
  // So is any frame that any site has made: that is what makes it unsafe.
  const frame = `<iframe sandbox="allow-scripts" srcdoc="<title>f</title>"></iframe>`;
  const pages = await start(new Pages({ "/": EMPTY + frame }));
  const other = await open(pages.url);
  const inner = await until("the frame", () =>
    other.page.frames().find((one) => one !== other.page.mainFrame()));
  allowed(await trial(inner, open_.url));
  refused(await trial(other.page, open_.url));
  await other.context.close();
  fs.rmSync(dir, { recursive: true, force: true });
});

test("any origin may be let in", async () => {
  const pages = await start(new Pages({ "/": EMPTY }));
  const server = await start(new Server(["--allowed-origins", "*"]));
  const { page, context } = await open(pages.url);
  allowed(await trial(page, server.url));
  await context.close();
});

test("the console is shown to no other page, and stays out of frames", async () => {
  const pages = await start(new Pages({ "/": EMPTY }));
  const server = await start(new Server(["--allowed-origins", pages.url]));
  const { page, context } = await open(pages.url);
  const seen = await page.evaluate(async (url) => {
    const read = await fetch(`${url}/`).then(() => "read", (fault) => fault.name);
    const frame = document.createElement("iframe");
    frame.src = `${url}/`;
    const isLoaded = new Promise((resolve) => (frame.onload = resolve));
    document.body.append(frame);
    await isLoaded;
    return read;
  }, server.url);
  assert.equal(seen, "TypeError");
  // The browser tells of the frame's page after the frame has loaded.
  await until("the frame shows no page", () =>
    page.frames().some((frame) => frame.url().startsWith("chrome-error:")),
  );
  await context.close();
});

/** Console, demo and reference are alive at a place, and so is a page of one's own beside them. */
async function everythingWorks(root) {
  const { page, context, said } = await open(root);
  await page.waitForSelector("#link[data-state=open]");
  for (const [link, wait] of [
    ["API", ".operation"],
    ["Demo", "#account"],
    ["Console", "#link[data-state=open]"],
  ]) {
    await page.evaluate((link) => {
      [...document.querySelectorAll(".topbar nav a")].find((a) => a.textContent === link).click();
    }, link);
    await page.waitForSelector(wait);
    assert.ok(page.url().startsWith(root), page.url());
  }
  for (const slashed of ["demo/", "docs/"]) {
    await page.goto(root + slashed);
    await page.waitForSelector(slashed === "demo/" ? "#account" : ".operation");
  }
  assert.deepEqual(said, []);
  await context.close();
}

test("TLS ends at a proxy, whose address is named", async (t) => {
  const tls = certificate();
  if (!tls) {
    t.skip("openssl is not there");
    return;
  }
  // A free port that the server is told of before the proxy is there.
  const port = await freePort();
  for (const flags of [
    ["--allowed-origins", `https://localhost:${port}`],
    ["--allowed-hosts", `localhost:${port}`],
  ]) {
    await behindTls(tls, port, flags, everythingWorks);
  }
  // Without either the page is shown, because pages are shown to everybody, and its socket is not.
  await behindTls(tls, port, [], async (root) => {
    const { page, context, said } = await open(root);
    await until("the socket is refused", () => said.some((text) => text.includes("403")));
    assert.equal(await page.$eval("#link", (node) => node.dataset.state === "open"), false);
    await context.close();
  });
});

async function behindTls(tls, port, flags, run) {
  const server = await new Server(flags).start();
  const proxy = new Relay(server, { tls });
  try {
    await proxy.start(port);
    await run(`https://localhost:${port}/`);
  } finally {
    await proxy.stop();
    await server.stop();
  }
}

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const isPush = (url) => url === "/push" || url.startsWith("/push/");

test("below a path of a site, with a proxy that keeps the path", async () => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const flags = ["--base-path", "/push", "--allowed-origins", origin];
  const server = await start(new Server(flags));
  const rewrite = (url) => (isPush(url) ? url : null);
  const proxy = new Relay(server, { rewrite });
  await proxy.start(port);
  running.push(proxy);
  await everythingWorks(`${origin}/push/`);
  await aPageOfTheSite(origin);
  const { page, context } = await open(`${origin}/push`);
  assert.equal(page.url(), `${origin}/push/`, "the slash is added");
  await context.close();
});

test("below a path of a site, with a proxy that cuts the path off", async () => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const server = await start(new Server(["--allowed-origins", origin]));
  const rewrite = (url) => (isPush(url) ? url.slice("/push".length) || "/" : null);
  const proxy = new Relay(server, { rewrite });
  await proxy.start(port);
  running.push(proxy);
  await everythingWorks(`${origin}/push/`);
  await aPageOfTheSite(origin);
});

/** A page of the same site that is not below the path uses the server with a relative URL. */
async function aPageOfTheSite(origin) {
  const { page, context } = await open(`${origin}/somewhere`);
  const seen = await page.evaluate(async () => {
    const { FanfareClient } = await import("/push/fanfare.js");
    const client = new FanfareClient({ url: "/push" });
    const view = client.channel("site");
    await view.ready;
    const { offset } = await view.publish("hello");
    const { messages } = await view.history({ limit: 1 });
    const url = client.url;
    client.close();
    const api = await (await fetch("/api/v1/channels")).text();
    return { offset, payload: messages[0].payload, url, api: api.trim() };
  });
  assert.deepEqual(seen, {
    offset: seen.offset, payload: "hello", url: `${origin}/push`, api: "somebody else's",
  });
  await context.close();
}

test("below a path of a site behind nginx, as the documentation has it", async (t) => {
  const nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].find((file) => fs.existsSync(file));
  if (!nginx) {
    t.skip("nginx is not installed");
    return;
  }
  const root = path.resolve(import.meta.dirname, "../..");
  const text = fs.readFileSync(path.join(root, "docs/browsers.md"), "utf8");
  const example = /```nginx\n([^]*?)```/.exec(text)[1];
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  for (const cuts of [false, true]) {
    const base = cuts ? [] : ["--base-path", "/push"];
    const server = await new Server([...base, "--allowed-origins", origin]).start();
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "fanfare-nginx-"));
    const upstream = `127.0.0.1:${server.port}`;
    const inside = example
      .replace("listen 127.0.0.1:8081", `listen 127.0.0.1:${port}`)
      .replace("127.0.0.1:8080;", cuts ? `${upstream}/;` : `${upstream};`);
    assert.ok(inside.includes(upstream) && inside.includes(`:${port};`), inside);
    const own = `location /somewhere { default_type text/html; return 200 "${EMPTY}"; }`;
    const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${dir}/${name};`).join(" ");
    const whole = `pid ${dir}/pid; error_log ${dir}/error.log; events {}
      http { access_log off; ${paths} ${inside.replace("server {", `server { ${own}`)} }`;
    fs.writeFileSync(path.join(dir, "nginx.conf"), whole);
    const args = ["-p", dir, "-c", path.join(dir, "nginx.conf"), "-g", "daemon off;"];
    const checked = spawnSync(nginx, ["-t", ...args.slice(0, 4)]);
    assert.equal(checked.status, 0, String(checked.stderr));
    const child = spawn(nginx, args, { stdio: "ignore" });
    const gone = new Promise((resolve) => child.once("exit", resolve));
    try {
      await until("nginx listens", async () => (await fetch(`${origin}/api/`)).ok);
      await everythingWorks(`${origin}/push/`);
      await aPageOfTheSite(origin);
    } finally {
      child.kill("SIGTERM");
      await gone;
      await server.stop();
      fs.rmSync(dir, { recursive: true, force: true });
    }
  }
});
