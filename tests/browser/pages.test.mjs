// The pages in a real browser, against a real server.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";

import puppeteer from "puppeteer-core";

import { FanfareClient } from "../../web/fanfare.js";
import { ROOT, sign, site, until } from "./support.mjs";

const SHOTS = path.join(ROOT, "target/screenshots");
const PASSWORD = "correct horse";
let browser;
let here;

before(async () => {
  fs.mkdirSync(SHOTS, { recursive: true });
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"],
  });
  here = await site();
});

after(async () => {
  await browser?.close();
  await here?.stop();
});

/** A page in a context of its own, which notes all that goes wrong on it. */
async function open(where, { base = here.url, wait = "main", ...view } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const { width = 1440, height = 900, theme = "light" } = view;
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  const faults = [];
  const violations = [];
  page.on("pageerror", (fault) => faults.push(String(fault.stack ?? fault)));
  page.on("console", (message) => {
    if (message.type() === "error") faults.push(message.text());
    if (/content security policy/i.test(message.text())) violations.push(message.text());
  });
  await page.exposeFunction("noteViolation", (text) => violations.push(text));
  await page.evaluateOnNewDocument(() => {
    addEventListener("securitypolicyviolation", (event) => {
      window.noteViolation(`${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  const response = await page.goto(base + where);
  await page.waitForSelector(wait);
  return { page, context, faults, violations, response };
}

const text = (page, selector) =>
  page.$$eval(selector, (nodes) => nodes.map((node) => node.textContent.trim()).join("\n"));

const has = (page, selector, words, limitMs) => {
  const ask = async () => (await text(page, selector)).includes(words);
  return until(`${selector} has "${words}"`, ask, limitMs);
};

async function fill(page, selector, value) {
  await page.$eval(selector, (node) => (node.value = ""));
  await page.type(selector, value);
}

/** Clicks the first button in a scope that reads so. */
async function press(page, scope, words) {
  const isPressed = await page.evaluate((scope, words) => {
    const buttons = [...document.querySelectorAll(`${scope} button, button${scope}`)];
    const button = buttons.find((one) => one.textContent.trim() === words && !one.disabled);
    button?.click();
    return Boolean(button);
  }, scope, words);
  assert.ok(isPressed, `there is a button "${words}" in ${scope}`);
}

/** Shows the instances of the first service. Not by the mouse: rows above may come between aim and click. */
async function unfold(page) {
  await page.$eval(".service > button", (button) => button.click());
}

const instance = (serviceId, instanceId, more = {}) => ({
  regionId: "eu-1", zoneId: "a", serviceId, instanceId, ip: "10.0.0.7", port: 8080,
  leaseTtlMs: 600_000, ...more,
});

async function enter(page, name) {
  await fill(page, "#account [name=username]", name);
  await fill(page, "#account [name=password]", PASSWORD);
  await page.click("#create");
  await page.waitForSelector("#app:not([hidden])");
  await has(page, "#link", "Live");
}

async function write(page, words) {
  await fill(page, "#composer [name=content]", words);
  await page.keyboard.press("Enter");
}

const said = ".messages:not([hidden]) .message:not(.pending) .text";

test("all pages load without an error and within a strict policy", async () => {
  const pages = [["/", "#link[data-state=open]"], ["/demo", "#account"], ["/docs", ".operation"]];
  for (const [where, wait] of pages) {
    const { page, context, faults, violations, response } = await open(where, { wait });
    const policy = response.headers()["content-security-policy"] ?? "";
    assert.match(policy, /default-src 'none'/);
    assert.doesNotMatch(policy, /unsafe/);
    if (where === "/") await has(page, "#h-connections", "1");
    assert.deepEqual(faults, []);
    assert.deepEqual(violations, []);
    await context.close();
  }
});

test("controls have names, and nothing is wider than a phone", async () => {
  for (const where of ["/", "/demo", "/docs"]) {
    const { page, context } = await open(where, { width: 390, height: 844 });
    const nameless = await page.evaluate(() => {
      const nodes = [...document.querySelectorAll("button, input, select, textarea, a[href]")];
      const name = (node) => node.getAttribute("aria-label") || node.textContent.trim()
        || [...(node.labels ?? [])].map((one) => one.textContent.trim()).join("")
        || node.querySelector("img")?.alt;
      return nodes.filter((node) => !name(node)).map((node) => node.outerHTML);
    });
    assert.deepEqual(nameless, []);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${where} is ${width} wide`);
    await context.close();
  }
});

test("what is registered appears on the console, and leaves it", async () => {
  const { page, context, faults } = await open("/", { wait: "#link[data-state=open]" });
  const { server } = here;
  await server.register(instance("billing", "billing-1"));
  await has(page, "#services", "billing");
  await has(page, "#log", "registered");
  await page.click(".service > button");
  await has(page, ".detail", "billing-1");
  await server.register(instance("billing", "billing-1", { status: "down" }));
  await has(page, ".detail", "down");
  await server.register(instance("billing", "billing-2"));
  await has(page, ".detail", "billing-2");
  await server.unregister({ regionId: "eu-1", serviceId: "billing", instanceId: "billing-1" });
  await until("it is gone", async () => !(await text(page, ".detail")).includes("billing-1"));
  assert.deepEqual(faults, []);
  await context.close();
});

test("an instance is pulled out and in again from the console", async () => {
  const { server } = here;
  await server.register(instance("pulled", "pulled-1"), instance("pulled", "pulled-2"));
  const { page, context, faults } = await open("/", { wait: "#link[data-state=open]" });
  await has(page, "#services", "pulled");
  await fill(page, "#f-services", "pulled");
  await until("one service is left", async () => (await page.$$(".service")).length === 1);
  await unfold(page);
  await has(page, ".detail", "pulled-1");
  await press(page, ".detail tr:first-child", "Pull out");
  await until("it is not discovered", async () => {
    const { instances } = await server.discover("pulled");
    return instances.length === 1 && instances[0].instanceId === "pulled-2";
  });
  await has(page, ".detail", "pulled out");
  await has(page, "#log", "pulled out");
  const focused = () => page.evaluate(() => document.activeElement.textContent);
  await until("the focus stays", async () => (await focused()) === "Pull in");
  await press(page, ".detail tr:first-child", "Pull in");
  await until("it is back", async () => (await server.discover("pulled")).instances.length === 2);
  await has(page, "#log", "pulled in");
  assert.deepEqual(faults, []);
  await context.close();
});

test("a degraded service is marked, and its protection can be lifted", async () => {
  const { server } = here;
  const names = ["weak-1", "weak-2", "weak-3", "weak-4"];
  await server.register(...names.map((name) => instance("weak", name, { leaseTtlMs: 1_000 })));
  const { page, context, faults } = await open("/", { wait: "#link[data-state=open]" });
  await fill(page, "#f-services", "weak");
  await has(page, ".service", "degraded");
  await has(page, "#degraded", "1 degraded");
  await has(page, ".service", "4 overdue");
  await unfold(page);
  await has(page, ".detail .facts", "Lift self-protection");
  await press(page, ".detail .facts", "Lift self-protection");
  await page.waitForSelector("#confirm[open]");
  await page.click("#confirm-yes");
  await has(page, "#log", "expired");
  const weak = () => server.discover("weak");
  await until("they have expired", async () => (await weak()).instances.length === 0);
  await has(page, ".detail .facts", "Protect again");
  assert.deepEqual(faults, []);
  await context.close();
});

test("the panel to try things follows, publishes and keeps an instance alive", async () => {
  const { page, context, faults } = await open("/", { wait: "#link[data-state=open]" });
  await page.select("#try-follow [name=kind]", "channel");
  await fill(page, "#try-follow [name=name]", "news:try");
  await press(page, "#try-follow", "Follow");
  await has(page, "#frames", '"type":"subscribed"');
  await fill(page, "#try-publish [name=channel]", "news:try");
  await press(page, "#try-publish", "Publish");
  await has(page, "#following", "1 messages");
  await fill(page, "#try-register [name=serviceId]", "tried");
  await fill(page, "#try-register [name=lease]", "1");
  await press(page, "#try-register", "Register");
  await has(page, "#leases", "renewed 4 times");
  assert.equal((await here.server.discover("tried")).instances.length, 1);
  await press(page, "#leases", "End");
  const tried = () => here.server.discover("tried");
  await until("it is gone", async () => (await tried()).instances.length === 0);
  await page.select("#try-follow [name=kind]", "service");
  assert.deepEqual(faults, []);
  await context.close();
});

test("a connection is ended from the console, and its page says so", async () => {
  const other = await open("/", { wait: "#link[data-state=open]" });
  const { page, context } = await open("/", { wait: "#link[data-state=open]" });
  // By its name: whoever has just left may still be listed, and a page may not know its own yet.
  const mark = " (this page)";
  const name = await until("the other page knows itself", () => other.page.evaluate((mark) => {
    const names = [...document.querySelectorAll("#connections tr td:first-child")];
    const own = names.find((one) => one.textContent.endsWith(mark));
    return own?.textContent.slice(0, -mark.length);
  }, mark));
  await until("it is listed, and ended", () => page.evaluate((name) => {
    const rows = [...document.querySelectorAll("#connections tr")];
    const row = rows.find((one) => one.firstChild.textContent === name);
    row?.querySelector("button").click();
    return row !== undefined;
  }, name));
  await page.waitForSelector("#confirm[open]");
  await page.click("#confirm-yes");
  await has(other.page, "#notice", "an operator ended this connection");
  await press(other.page, "#notice", "Connect again");
  await has(other.page, "#link", "Live");
  await Promise.all([context.close(), other.context.close()]);
});

test("two users chat, see each other, and write to each other", async () => {
  const ann = await open("/demo", { wait: "#account" });
  const bob = await open("/demo", { wait: "#account" });
  await enter(ann.page, "ann");
  await enter(bob.page, "bob");
  await has(ann.page, "#people", "bob");
  await has(bob.page, "#people", "ann");
  await has(ann.page, "#members", "bob");
  await write(ann.page, "hello in general");
  await has(bob.page, said, "hello in general");
  await write(bob.page, "<b>not bold</b>");
  await has(ann.page, said, "<b>not bold</b>");
  // A direct message, with its mark of an unread one.
  await ann.page.evaluate(() => {
    const buttons = [...document.querySelectorAll("#people button")];
    buttons.find((one) => one.textContent.includes("bob")).click();
  });
  await write(ann.page, "only for bob");
  await has(ann.page, said, "only for bob");
  await has(bob.page, "#people .unread", "1");
  await bob.page.click("#people button");
  await has(bob.page, said, "only for bob");
  await write(bob.page, "got it");
  await has(ann.page, said, "got it");
  // A notification.
  await fill(ann.page, "#notify [name=text]", "tea is ready");
  await press(ann.page, "#notify", "Notify");
  await has(bob.page, "#notes", "tea is ready");
  await has(ann.page, "#notify-done", "Reached 1 connection");
  // The dashboard.
  await press(ann.page, ".dash", "Send metrics");
  await until("bob sees figures", async () => /\d/.test(await text(bob.page, "#l-visitors b")));
  assert.deepEqual([...ann.faults, ...bob.faults], []);
  assert.deepEqual([...ann.violations, ...bob.violations], []);
  await Promise.all([ann.context.close(), bob.context.close()]);
});

test("the demo writes texts as data.content, and reads data.text as well", async () => {
  const { page, context } = await open("/demo", { wait: "#account" });
  await enter(page, "nina");
  const { token } = await here.server.account("otto");
  const client = new FanfareClient({ url: here.server.url, token });
  try {
    await client.connect();
    const heard = client.once("envelope");
    await fill(page, "#notify [name=text]", "tea is ready");
    await press(page, "#notify", "Notify");
    const { message_type, data } = await heard;
    assert.deepEqual({ message_type, data }, {
      message_type: "notification", data: { content: "tea is ready" },
    });
    for (const data of [{ content: "one spelling" }, { text: "the other" }]) {
      await client.send({ messageType: "notification", data });
      await has(page, "#notes", Object.values(data)[0]);
    }
  } finally {
    client.close();
  }
  await context.close();
});

test("the server is killed and comes back: the pages too, and nothing is lost", async () => {
  const { server } = here;
  const cat = await open("/demo", { wait: "#account" });
  const dan = await open("/demo", { wait: "#account" });
  const watch = await open("/", { wait: "#link[data-state=open]" });
  await enter(cat.page, "cat");
  await enter(dan.page, "dan");
  await has(cat.page, "#members", "dan");
  await write(cat.page, "before the kill");
  await has(dan.page, said, "before the kill");
  await server.register(instance("lasting", "lasting-1"));
  await has(watch.page, "#services", "lasting");
  // Dan leaves; what is written to him is stored.
  await cat.page.evaluate(() => {
    const buttons = [...document.querySelectorAll("#people button")];
    buttons.find((one) => one.textContent.includes("dan")).click();
  });
  const token = await dan.page.evaluate(() => sessionStorage.getItem("fanfare-token"));
  await dan.page.goto("about:blank");
  await has(cat.page, "#talk-about", "offline");
  await write(cat.page, "while you were away");
  await has(cat.page, said, "while you were away");

  await server.kill();
  for (const { page } of [cat, watch]) {
    await until("it is away", () => page.$eval("#link", (node) => node.dataset.state !== "open"));
  }
  // What is written now waits, and goes out later.
  await write(cat.page, "during the outage");
  await cat.page.evaluate(() => document.querySelector("#rooms button").click());
  await write(cat.page, "to the room, during the outage");
  await server.start();
  for (const { page } of [cat, watch]) await has(page, "#link", "Live", 40_000);
  await has(cat.page, said, "to the room, during the outage", 30_000);
  assert.match(await text(cat.page, said), /before the kill/);

  // The registry lives on, and the console follows it.
  await server.register(instance("lasting", "lasting-2"), instance("returned", "returned-1"));
  await has(watch.page, "#services", "returned", 30_000);

  await dan.page.goto(`${here.url}/docs`);
  await dan.page.evaluate((token) => sessionStorage.setItem("fanfare-token", token), token);
  await dan.page.goto(`${here.url}/demo`);
  await has(dan.page, "#link", "Live", 30_000);
  await has(dan.page, "#people", "cat");
  const unread = () => text(dan.page, "#people .unread");
  await until("two are unread", async () => (await unread()).startsWith("2"));
  await dan.page.click("#people button");
  await has(dan.page, said, "while you were away");
  await has(dan.page, said, "during the outage");
  await dan.page.evaluate(() => document.querySelector("#rooms button").click());
  await has(dan.page, said, "to the room, during the outage");
  // Each came once.
  const words = (await text(dan.page, said)).split("\n");
  assert.equal(words.filter((one) => one === "to the room, during the outage").length, 1);
  const broken = [cat, dan, watch].flatMap(({ faults }) => faults)
    .filter((fault) => !/WebSocket connection|Failed to load resource|ERR_/.test(fault));
  assert.deepEqual(broken, []);
  await Promise.all([cat, dan, watch].map(({ context }) => context.close()));
});

test("the reference shows calls, finds them and tries them", async () => {
  const { page, context, faults } = await open("/docs", { wait: ".operation" });
  const number = async () => (await page.$$(".operation:not([hidden])")).length;
  const all = await number();
  assert.ok(all > 0);
  await fill(page, "#search", "get /health");
  await until("fewer are left", async () => (await number()) < all);
  const id = await page.$$eval(".operation:not([hidden])", (nodes) =>
    nodes.find((node) => node.querySelector(".path").textContent === "/health").id);
  await page.click(`#${id} h3 button`);
  await press(page, `#${id}`, "Send");
  await has(page, `#${id} .status`, "200");
  await has(page, `#${id} .trial pre`, '"up"');
  await fill(page, "#search", "no such thing at all");
  await page.waitForSelector("#nothing:not([hidden])");
  assert.deepEqual(faults, []);
  await context.close();
});

test("where a token is wanted, the console asks for it", async () => {
  const guarded = await site(["--auth", "required"]);
  try {
    const { username, password } = await guarded.server.account("operator");
    const where = { base: guarded.url, wait: "#signin[open]" };
    const { page, context, violations } = await open("/", where);
    await fill(page, "#signin [name=username]", username);
    await fill(page, "#signin [name=password]", "not the password");
    await press(page, "#signin", "Sign in");
    await has(page, "#signin-error", "do not fit");
    await fill(page, "#signin [name=password]", password);
    await press(page, "#signin", "Sign in");
    await has(page, "#link", "Live");
    // The token of a login may chat and message: what it may not see is said, not asked for again.
    await has(page, "#no-connections", "sockets:read");
    await has(page, "#no-channels", "channels:read");
    await has(page, "#no-services", "registry:read");
    await has(page, "#source", "sockets:read");
    assert.equal(await page.$("#signin[open]"), null);
    assert.deepEqual(violations, []);
    await page.reload();
    await has(page, "#link", "Live");
    await context.close();
  } finally {
    await guarded.stop();
  }
});

test("who administers signs in with a name and a password, and operates", async () => {
  const guarded = await site(["--auth", "required"]);
  try {
    const { server } = guarded;
    const { username, password } = await server.account("administrator");
    server.grant(username, "admin");
    const { body } = await server.call("POST", "/api/v1/users/login", { username, password });
    const instances = [instance("ledger", "ledger-1")];
    const made = await server.call("POST", "/api/registry/register.json", { instances }, body.token);
    assert.equal(made.status, 200);
    const where = { base: guarded.url, wait: "#signin[open]" };
    const { page, context, violations } = await open("/", where);
    await fill(page, "#signin [name=username]", username);
    await fill(page, "#signin [name=password]", password);
    await press(page, "#signin", "Sign in");
    await has(page, "#link", "Live");
    await has(page, "#services", "ledger");
    await unfold(page);
    await has(page, ".detail", "ledger-1");
    await press(page, ".detail tr:first-child", "Pull out");
    await has(page, ".detail", "pulled out");
    assert.deepEqual(violations, []);
    await context.close();
  } finally {
    await guarded.stop();
  }
});

test("a token that no longer holds leads back to the door of the demo", async () => {
  const { page, context, violations } = await open("/demo", { wait: "#account" });
  const token = sign("another secret", { sub: "u-old", exp: Math.ceil(Date.now() / 1000) + 60 });
  await page.evaluate((token) => sessionStorage.setItem("fanfare-token", token), token);
  await page.reload();
  await has(page, "#account-error", "Sign in again", 20_000);
  await enter(page, "returning");
  await write(page, "here again");
  await has(page, said, "here again");
  assert.deepEqual(violations, []);
  await context.close();
});

/** Presses Tab until the focus has been everywhere; returns what it did not reach. */
async function tabThrough(page) {
  const wanted = await page.evaluate(() => {
    const selector = "a[href], button, input, select, textarea, summary, [tabindex='0']";
    const nodes = [...document.querySelectorAll(selector)].filter((node) =>
      !node.disabled && node.checkVisibility() && !node.closest("dialog:not([open])"));
    nodes.forEach((node, at) => (node.dataset.stop = at));
    document.activeElement?.blur();
    return nodes.length;
  });
  const reached = new Set();
  const unseen = [];
  for (let at = 0; at < wanted + 8 && reached.size < wanted; at += 1) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const node = document.activeElement;
      const style = getComputedStyle(node);
      const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      return { stop: node.dataset.stop, isSeen, what: node.outerHTML.slice(0, 120) };
    });
    if (stop.stop === undefined) continue;
    reached.add(stop.stop);
    if (!stop.isSeen) unseen.push(stop.what);
  }
  assert.deepEqual(unseen, [], "the focus is visible");
  assert.equal(reached.size, wanted, "everything is reached");
}

test("the keyboard reaches everything", async () => {
  await here.server.register(instance("keys", "keys-1"));
  const { page, context } = await open("/", { wait: ".service" });
  await unfold(page);
  await page.waitForSelector(".detail tbody button");
  await tabThrough(page);
  await context.close();
  const docs = await open("/docs", { wait: ".operation" });
  await docs.page.click(".operation button");
  await tabThrough(docs.page);
  await docs.context.close();
  const demo = await open("/demo", { wait: "#account" });
  await tabThrough(demo.page);
  await enter(demo.page, "keys");
  await tabThrough(demo.page);
  await demo.context.close();
});

/** Waits for a line of at least so many points. */
const drawn = (page, chart, points) =>
  until(`${chart} has ${points} points`, () => page.evaluate((chart, points) => {
    const lines = [...document.querySelectorAll(`${chart} .series`)];
    return lines.some((line) => line.getAttribute("d").split("L").length >= points);
  }, chart, points), 30_000);

test("screenshots", async () => {
  const { server } = here;
  const services = ["orders", "payments", "inventory", "search", "profiles"];
  for (const [at, serviceId] of services.entries()) {
    for (let number = 1; number <= 3 + (at % 3); number += 1) {
      const status = number === 2 && at % 2 ? "unhealthy" : "up";
      await server.register(instance(serviceId, `${serviceId}-${number}`, {
        status, ip: `10.0.${at}.${number}`, zoneId: "abc"[number % 3],
      }));
    }
  }
  const writer = await open("/demo", { wait: "#account" });
  await enter(writer.page, "eve");
  await write(writer.page, "The rollout of orders is done.");
  await press(writer.page, ".dash", "Send metrics");
  const looks = [
    ["light", { theme: "light" }],
    ["dark", { theme: "dark" }],
    ["phone", { theme: "light", width: 390, height: 844 }],
  ];
  for (const [look, view] of looks) {
    const { page, context } = await open("/", { ...view, wait: ".service" });
    await has(page, "#link", "Live");
    await until("figures are there", async () => /\d/.test(await text(page, "#h-deliveries")));
    await page.evaluate(() => document.querySelectorAll(".service > button")[1].click());
    await page.waitForSelector(".detail tbody button");
    for (const status of ["starting", "up", "down", "up"]) {
      await server.register(instance("payments", "payments-3", { status }));
    }
    await until("the log has it", async () => (await page.$$("#log li")).length >= 4);
    await drawn(page, "#c-connections", 6);
    await page.screenshot({ path: path.join(SHOTS, `console-${look}.png`), fullPage: true });
    await context.close();

    const demo = await open("/demo", { ...view, wait: "#account" });
    await enter(demo.page, `fay-${look}`);
    await has(demo.page, said, "The rollout of orders is done.");
    await write(demo.page, "Good. The next one is payments.");
    await has(demo.page, said, "payments");
    await write(writer.page, "Yes, at noon.");
    await has(demo.page, said, "at noon");
    await fill(writer.page, "#notify [name=text]", "orders 2.4 is live everywhere");
    await press(writer.page, "#notify", "Notify");
    await has(demo.page, "#notes", "is live");
    await until("the note has gone", async () => (await demo.page.$$(".toast")).length === 0);
    if (look !== "phone") await drawn(demo.page, "#c-visitors", 12);
    await demo.page.screenshot({ path: path.join(SHOTS, `demo-${look}.png`) });
    await demo.context.close();

    const docs = await open("/docs", { ...view, wait: ".operation" });
    await docs.page.click(".operation button");
    await docs.page.screenshot({ path: path.join(SHOTS, `docs-${look}.png`) });
    await docs.context.close();
  }
  await writer.context.close();
  for (const page of ["console", "demo", "docs"]) {
    for (const [look] of looks) {
      assert.ok(fs.statSync(path.join(SHOTS, `${page}-${look}.png`)).size > 5_000);
    }
  }
});
