/**
 * The fanfare client: one socket that stays, and live views on top of it.
 *
 * One ES module for browsers and for Node 22 or newer. It has no dependencies.
 *
 *     import { FanfareClient } from "/fanfare.js";
 *     const client = new FanfareClient({ url: "http://127.0.0.1:8080" });
 *     const orders = client.service("orders");
 *     for await (const change of orders.changes()) console.log(change.type, orders.instances.size);
 *
 * Promise: a view is never silently wrong. The client checks each frame against the revision or
 * the offset before it, requests lost changes again, and reports messages that are gone.
 *
 * @module fanfare
 */

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20_000;
/** A connection that lasted this long was a good one: the next wait is short again. */
const STEADY_MS = 5_000;
/** The shortest wait after a close with 4409 or 4429. */
const LATER_MS = 5_000;
const TIMER_MAX_MS = 2_000_000_000;
const SEEN_MAX = 8_192;
const FEED_MAX = 1_024;
const KEYS_PER_FRAME = 100;

const CLOSE = {
  DRAINING: 1001,
  TOKEN: 4401,
  REMOVED: 4403,
  SLOW: 4408,
  TOO_MANY: 4409,
  NO_PONG: 4410,
  RATE: 4429,
};

/** Codes of refusals that may pass by themselves. */
const PASSING = new Set([
  "rate_limited", "unavailable", "internal", "closed", "timeout", "network",
]);

/**
 * A failure. `code` is one of the protocol's codes, or one of the client's own: `closed` (the
 * connection ended before the answer), `timeout`, `network`, `stopped`, `removed`.
 */
export class FanfareError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retry?: boolean, status?: number, cause?: unknown}} [more]
   */
  constructor(code, message, more = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "FanfareError";
    /** A word for programs. */
    this.code = code;
    /** Whether the same call may succeed later. */
    this.retry = more.retry ?? PASSING.has(code);
    /** The HTTP status, where there was one. */
    this.status = more.status;
  }
}

/** The reasons for which the server ends a subscription by itself. */
const WITHDRAWN = {
  forbidden: "the new token does not allow this",
  operator: "an operator ended the subscription",
};

/** Named events. A listener that throws is reported and does not stop the others. */
class Emitter {
  #listeners = new Map();

  /**
   * Listens to an event.
   * @param {string} name
   * @param {(event: any) => void} listener
   * @returns {() => void} ends the listening
   */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.off(name, listener);
  }

  /** Ends what `on` began. */
  off(name, listener) {
    this.#listeners.get(name)?.delete(listener);
  }

  /** Resolves at the next event of this name. */
  once(name) {
    return new Promise((resolve) => {
      const stop = this.on(name, (event) => {
        stop();
        resolve(event);
      });
    });
  }

  /** @protected */
  emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (fault) {
        console.error(`fanfare: a listener of "${name}" failed`, fault);
      }
    }
  }
}

/** A queue between events and a `for await` loop. */
class Feed {
  #queue = [];
  #waiting = [];
  #ended = false;
  #stop;
  #collapse;

  constructor(stop, collapse) {
    this.#stop = stop;
    this.#collapse = collapse;
  }

  push(value) {
    if (this.#ended) return;
    const waiter = this.#waiting.shift();
    if (waiter) {
      waiter({ value, done: false });
      return;
    }
    this.#queue.push(value);
    // A reader that does not keep up gets the whole state one time, instead of a growing queue.
    if (this.#collapse && this.#queue.length > FEED_MAX) this.#queue = [this.#collapse()];
  }

  end() {
    this.#ended = true;
    for (const waiter of this.#waiting.splice(0)) waiter({ value: undefined, done: true });
  }

  next() {
    if (this.#queue.length > 0) return Promise.resolve({ value: this.#queue.shift(), done: false });
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  return() {
    this.#queue = [];
    this.end();
    this.#stop();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** Remembers the newest ids, so that no message is emitted twice. */
class Seen {
  #ids = new Set();

  /** Returns whether the id is new, and remembers it. */
  add(id) {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > SEEN_MAX) this.#ids.delete(this.#ids.values().next().value);
    return true;
  }
}

/** The name of an instance within its service: region and instance id, without case. */
export function instanceName(instance) {
  return `${instance.regionId ?? ""}/${instance.instanceId ?? ""}`.toLowerCase();
}

/** The part of an instance that names it in heartbeats and commands. */
export function instanceKey(instance) {
  const key = {};
  for (const field of ["regionId", "zoneId", "serviceId", "groupId", "instanceId"]) {
    if (instance[field] !== undefined && instance[field] !== null) key[field] = instance[field];
  }
  return key;
}

/** The expiry of a token in milliseconds since 1970, or null if it has none. */
export function tokenExpiry(token) {
  try {
    const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const claims = JSON.parse(atob(part));
    return typeof claims.exp === "number" ? claims.exp * 1000 : null;
  } catch {
    return null;
  }
}

/** A server's URL without a slash or the socket's path at its end; in a page it may be relative. */
function rooted(url) {
  const text = String(url).replace(/^ws(s?):/, "http$1:");
  const page = globalThis.location?.href;
  const whole = /^https?:/.test(text) || !page ? text : new URL(text, page).href;
  return whole.replace(/\/(ws)?\/?$/, "");
}

function asErrorFrame(frame) {
  if (frame.type === "error") {
    const known = PASSING.has(frame.code);
    return new FanfareError(frame.code, frame.message, { retry: frame.temporary ?? known });
  }
  const data = frame.data ?? {};
  return new FanfareError(data.code ?? "internal", data.message ?? "the server refused it");
}

function toMap(instances) {
  return new Map(instances.map((instance) => [instanceName(instance), instance]));
}

/**
 * Applies a change to the picture of a service. Returns the new changes, or null if a change before
 * it was lost.
 */
function applyChange(known, frame) {
  if (frame.epoch !== known.epoch || frame.from > known.revision) return null;
  if (frame.revision < known.revision) return [];
  if (frame.revision - frame.from !== frame.changes.length) return null;
  const fresh = frame.changes.slice(known.revision - frame.from);
  for (const change of fresh) {
    const name = instanceName(change.instance);
    if (change.changeType === "delete") known.instances.delete(name);
    else known.instances.set(name, change.instance);
  }
  known.revision = frame.revision;
  known.degraded = frame.degraded ?? known.degraded;
  return fresh;
}

/**
 * The choice of an instance to call. Each has a turn; the earliest is chosen, and its next one comes
 * after a time that is the shorter the larger its weight (stride scheduling, Waldspurger 1995). So
 * among equals the least recently chosen comes next.
 */
class Turns {
  #prefer;
  #turns = [];
  #known = new Map();
  #now = 0;

  constructor(prefer = {}) {
    this.#prefer = prefer ?? {};
  }

  /** 0: as preferred; 1: the same region, another zone; 2: anywhere else. */
  #distance(instance) {
    const isIn = (wanted, at) => !wanted || wanted.toLowerCase() === at?.toLowerCase();
    const isNear = isIn(this.#prefer.region, instance.regionId);
    if (isNear && isIn(this.#prefer.zone, instance.zoneId)) return 0;
    return isNear && this.#prefer.region ? 1 : 2;
  }

  /** Takes the turns over to other instances. A new one's first turn comes within its stride. */
  take(instances) {
    const callable = [];
    const counts = [0, 0, 0];
    for (const [name, instance] of instances) {
      const weight = instance.weight ?? 100;
      if (instance.status !== "up" || weight === 0) continue;
      const distance = this.#distance(instance);
      counts[distance] += 1;
      callable.push({ name, instance, weight, distance });
    }
    const min = Math.max(this.#prefer.min ?? 1, 1);
    const reach = counts[0] >= min ? 0 : counts[0] + counts[1] >= min ? 1 : 2;
    const before = this.#known;
    this.#turns = callable.filter((turn) => turn.distance <= reach);
    for (const turn of this.#turns) {
      turn.at = before.get(turn.name)?.at ?? this.#now + Math.random() / turn.weight;
    }
    this.#known = new Map(this.#turns.map((turn) => [turn.name, turn]));
  }

  next() {
    let first = null;
    for (const turn of this.#turns) if (first === null || turn.at < first.at) first = turn;
    if (first === null) return null;
    this.#now = first.at;
    first.at += 1 / first.weight;
    return first.instance;
  }
}

/** An event of a view of services. `kind` is the older name of its `type`. */
function happened(type, event) {
  return { type, kind: type, ...event };
}

/** The base of all views: a subscription, and whether it is live. */
class View extends Emitter {
  /** @type {"live" | "stale"} */
  state = "stale";
  #client;
  #heard = 0;
  #settled = false;
  #settle;
  #fail;
  #feeds = new Set();
  /** Rises with each attempt to follow: answers to an older one are void. */
  #attempt = 0;
  #retries = 0;
  #timer;
  closed = false;

  constructor(client) {
    super();
    this.#client = client;
    /** Resolves once the view is live for the first time. Rejects where it is refused for good. */
    this.ready = new Promise((resolve, reject) => {
      this.#settle = resolve;
      this.#fail = reject;
    });
    this.ready.catch(() => {});
  }

  get client() {
    return this.#client;
  }

  /** Milliseconds since this was last known to be true. Infinity before the first answer. */
  ageMs() {
    if (this.state === "live") return Date.now() - this.#client.heardAt;
    return this.#heard === 0 ? Infinity : Date.now() - this.#heard;
  }

  /** A stream of what happens here; it ends with the view. */
  [Symbol.asyncIterator]() {
    const feed = new Feed(() => this.#feeds.delete(feed), this.whole?.bind(this));
    this.#feeds.add(feed);
    if (this.closed) feed.end();
    else if (this.state === "live" && this.whole) feed.push(this.whole());
    return feed;
  }

  /** The same stream by a name: `for await (const change of view.changes())`. */
  changes() {
    return this[Symbol.asyncIterator]();
  }

  /** @protected Tells listeners and streams. */
  tell(name, event) {
    this.emit(name, event);
    for (const feed of this.#feeds) feed.push(event);
  }

  /** @protected */
  live() {
    this.#retries = 0;
    this.#setState("live");
    if (!this.#settled) {
      this.#settled = true;
      this.#settle(this);
    }
  }

  /** @protected The connection has gone; nothing is known to be true from here on. */
  lost() {
    clearTimeout(this.#timer);
    this.#attempt += 1;
    this.stale();
  }

  /** @protected */
  stale() {
    if (this.state === "live") this.#heard = this.#client.heardAt;
    this.#setState("stale");
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", state);
  }

  /** @protected The server has ended this: a new token does not allow it, or an operator decided it. */
  withdrawn(reason) {
    this.#attempt += 1;
    clearTimeout(this.#timer);
    this.stale();
    this.emit("error", new FanfareError("forbidden", WITHDRAWN[reason]));
  }

  /** @protected An operator has subscribed the connection: what was ended goes on where it stood. */
  restored() {
    if (!this.closed && this.state === "stale") this.follow();
  }

  /** @protected Subscribes again, until it works or is refused for good. */
  async follow() {
    clearTimeout(this.#timer);
    const attempt = ++this.#attempt;
    const isVoid = () => attempt !== this.#attempt || this.closed;
    try {
      await this.start(isVoid);
    } catch (fault) {
      if (isVoid()) return;
      this.stale();
      this.emit("error", fault);
      if (fault.code === "closed") return;
      if (fault.retry) {
        const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.#retries++);
        this.#timer = setTimeout(() => this.follow(), wait * (0.5 + Math.random() / 2));
      } else if (!this.#settled) {
        this.#settled = true;
        this.#fail(fault);
      }
    }
  }

  /** @protected */
  finish() {
    this.closed = true;
    clearTimeout(this.#timer);
    this.#attempt += 1;
    this.stale();
    for (const feed of this.#feeds) feed.end();
    this.#feeds.clear();
    if (!this.#settled) {
      this.#settled = true;
      this.#fail(new FanfareError("stopped", "the view was closed"));
    }
  }
}

/**
 * One service, live. Events: `change` with `{type, changes, instances, epoch, revision, degraded}`,
 * where `type` is `snapshot`, `change` or `degraded`; `state`; `error`.
 */
export class ServiceView extends View {
  /** The newest epoch and revision. */
  epoch = null;
  revision = 0;
  degraded = false;
  /** Instances by name (region and id). @type {Map<string, object>} */
  instances = new Map();
  #syncing = true;
  /** The revision that makes this live again. */
  #target = 0;
  #turns;
  /** The instances have changed since the last choice. */
  #hasChanged = true;

  constructor(client, serviceId) {
    super(client);
    this.#turns = new Turns(client.prefer);
    /** The canonical, lower-case id. */
    this.serviceId = serviceId;
  }

  /** The instances as an array. */
  list() {
    return [...this.instances.values()];
  }

  /**
   * An instance to call, or null: one that is up, by weight, near ones first (see the option
   * `prefer`), and among those the one that was not chosen for the longest time.
   */
  pick() {
    if (this.#hasChanged) this.#turns.take(this.instances);
    this.#hasChanged = false;
    return this.#turns.next();
  }

  /** Ends the view and the subscription. */
  close() {
    this.client._drop("services", this.serviceId, this);
    this.finish();
    this.client._quiet({ type: "unsubscribe", service_id: this.serviceId });
  }

  /** @protected */
  whole() {
    const { epoch, revision, degraded } = this;
    const instances = this.list();
    return happened("snapshot", { changes: [], instances, epoch, revision, degraded });
  }

  /** @protected */
  async start(isVoid) {
    this.#syncing = true;
    const frame = { type: "subscribe", service_id: this.serviceId };
    if (this.epoch === null) frame.snapshot = true;
    else frame.since = { epoch: this.epoch, revision: this.revision };
    // The answer is applied in the turn in which it arrives: the next frame may follow at once.
    await this.client._call(frame, {}, (answer) => {
      if (isVoid()) return;
      this.#syncing = false;
      this.#target = answer.revision;
      if (answer.instances) this.#replace(answer);
      else this.#resumed(answer);
      this.#settleAt(this.revision);
    });
  }

  #settleAt(revision) {
    if (this.state !== "live" && revision >= this.#target) this.live();
  }

  #resumed(answer) {
    const { epoch, revision } = this;
    if (answer.degraded === this.degraded) return;
    this.degraded = answer.degraded;
    const instances = this.list();
    const degraded = this.degraded;
    const event = { changes: [], instances, epoch, revision, degraded };
    this.tell("change", happened("degraded", event));
  }

  #replace(frame) {
    this.epoch = frame.epoch;
    this.revision = frame.revision;
    this.degraded = frame.degraded ?? false;
    this.instances = toMap(frame.instances);
    this.#hasChanged = true;
    this.tell("change", this.whole());
  }

  /** @protected */
  take(frame) {
    if (this.#syncing) return;
    if (frame.type === "service_snapshot") {
      this.#target = frame.revision;
      this.#replace(frame);
      this.#settleAt(frame.revision);
      return;
    }
    const wasDegraded = this.degraded;
    const changes = applyChange(this, frame);
    if (changes === null) {
      this.emit("gap", { known: this.revision, from: frame.from, revision: frame.revision });
      this.#syncing = true;
      this.stale();
      this.follow();
      return;
    }
    if (changes.length > 0) this.#hasChanged = true;
    if (changes.length > 0 || wasDegraded !== this.degraded) {
      const { epoch, revision, degraded } = this;
      const kind = changes.length > 0 ? "change" : "degraded";
      const instances = this.list();
      this.tell("change", happened(kind, { changes, instances, epoch, revision, degraded }));
    }
    this.#settleAt(this.revision);
  }
}

/**
 * Every service, live: a subscription to `*` joined with one reading of all services. Events:
 * `change` with `{type, serviceId?, changes}`, where `type` is `snapshot` (all of it, or one
 * service if `serviceId` is set), `change` or `degraded`.
 */
export class AllServicesView extends View {
  /** By canonical id. @type {Map<string, object>} */
  services = new Map();
  /** Frames that wait for a reading; null: none is under way. */
  #early = null;
  #pending = new Map();
  #isVoid = () => true;

  /** The services as an array, by id. */
  list() {
    return [...this.services.values()].sort((a, b) => (a.serviceId < b.serviceId ? -1 : 1));
  }

  /** Ends the view and the subscription. */
  close() {
    this.client._drop("services", "*", this);
    this.finish();
    this.client._quiet({ type: "unsubscribe", service_id: "*" });
  }

  /** @protected */
  whole() {
    return happened("snapshot", { changes: [], services: this.list() });
  }

  /** @protected */
  async start(isVoid) {
    this.#isVoid = isVoid;
    this.#early = [];
    this.#pending.clear();
    await this.client._call({ type: "subscribe", service_id: "*" });
    const answer = await this.client.http("GET", "/api/discovery/services.json");
    if (isVoid()) return;
    this.services = new Map();
    for (const service of answer.services ?? []) this.#set(service);
    const early = this.#early;
    this.#early = null;
    this.tell("change", this.whole());
    for (const frame of early) this.take(frame);
    this.live();
  }

  #set(service) {
    const serviceId = service.serviceId.toLowerCase();
    const known = {
      serviceId,
      epoch: service.epoch,
      revision: service.revision,
      degraded: service.degraded ?? false,
      instances: toMap(service.instances ?? []),
    };
    this.services.set(serviceId, known);
    return known;
  }

  /** @protected */
  take(frame) {
    if (this.#early) {
      this.#early.push(frame);
      return;
    }
    const serviceId = frame.service_id;
    const pending = this.#pending.get(serviceId);
    if (pending) {
      pending.push(frame);
      return;
    }
    if (frame.type === "service_snapshot") {
      this.#set({ ...frame, serviceId });
      this.tell("change", happened("snapshot", { serviceId, changes: [] }));
      return;
    }
    let known = this.services.get(serviceId);
    if (!known && frame.from === 0) {
      known = this.#set({ serviceId, epoch: frame.epoch, revision: 0 });
    }
    const wasDegraded = known?.degraded;
    const changes = known ? applyChange(known, frame) : null;
    if (changes === null) {
      this.emit("gap", { serviceId, known: known?.revision, from: frame.from });
      this.#reload(serviceId, frame);
    } else if (changes.length > 0) {
      this.tell("change", happened("change", { serviceId, changes }));
    } else if (known.degraded !== wasDegraded) {
      this.tell("change", happened("degraded", { serviceId, changes: [] }));
    }
  }

  /** Reads one service again, while its frames wait. */
  async #reload(serviceId, frame) {
    const isVoid = this.#isVoid;
    this.#pending.set(serviceId, []);
    try {
      const path = `/api/discovery/service.json?serviceId=${encodeURIComponent(serviceId)}`;
      const { service } = await this.client.http("GET", path);
      if (isVoid()) return;
      const waiting = this.#pending.get(serviceId) ?? [];
      this.#pending.delete(serviceId);
      if (!service || service.epoch !== frame.epoch || service.revision < frame.revision) {
        // Older than the frame that asked for it: read all of it again.
        this.follow();
        return;
      }
      this.#set(service);
      this.tell("change", happened("snapshot", { serviceId, changes: [] }));
      for (const one of waiting) this.take(one);
    } catch (fault) {
      if (isVoid()) return;
      this.emit("error", fault);
      this.follow();
    }
  }
}

/**
 * One channel, live. Events: `message` with the frame as pushed; `lost` with `{epoch, offset, before}`
 * when the server no longer has all missed messages, or has lost some itself; `deleted`; `state`;
 * `error`.
 */
export class ChannelView extends View {
  epoch = null;
  offset = null;
  #history;
  #syncing = true;
  #early = [];
  #target = 0;
  #isVoid = () => true;
  /** Offsets of own messages that were published without an echo. */
  #own = new Set();
  #seen = new Seen();

  constructor(client, name, options = {}) {
    super(client);
    this.name = name;
    this.#history = options.history ?? 0;
    if (options.since) {
      this.epoch = options.since.epoch;
      this.offset = options.since.offset;
    }
  }

  /** Ends the view and the subscription. */
  close() {
    this.client._drop("channels", this.name, this);
    this.finish();
    this.client._quiet({ type: "unsubscribe", channel: this.name });
  }

  /**
   * Publishes a message and resolves with its position.
   * @param {any} payload
   * @param {{event?: string, metadata?: object, echo?: boolean}} [options]
   */
  async publish(payload, options = {}) {
    const answer = await this.client.publish(this.name, payload, options);
    if (options.echo === false && answer.offset !== null) this.#own.add(answer.offset);
    return answer;
  }

  /** Reads the history over HTTP: `{epoch, messages}`. */
  history({ after, limit } = {}) {
    return this.client.history(this.name, { after, limit });
  }

  /** @protected */
  async start(isVoid) {
    this.#isVoid = isVoid;
    this.#syncing = true;
    const frame = { type: "subscribe", channel: this.name };
    const isFirst = this.epoch === null;
    if (!isFirst) frame.since = { epoch: this.epoch, offset: this.offset };
    let wantsHistory = isFirst;
    await this.client._call(frame, {}, (answer) => {
      if (isVoid()) return;
      const isLost = answer.recovered === false;
      // The answer contains all earlier messages.
      this.#early = [];
      this.#target = answer.offset;
      wantsHistory ||= isLost;
      if (isFirst || isLost) this.#move(answer, isLost);
      if (wantsHistory && this.#history > 0) return;
      this.#syncing = false;
      if (this.offset >= this.#target) this.live();
    });
    if (wantsHistory && this.#history > 0 && !isVoid()) await this.#catchUp(isVoid);
  }

  /** The channel counts from another place. */
  #move({ epoch, offset }, isLost) {
    const before = { epoch: this.epoch, offset: this.offset };
    this.epoch = epoch;
    this.offset = offset;
    this.#own.clear();
    if (isLost) this.emit("lost", { epoch, offset, before });
  }

  /** Messages were lost on the server: nothing is missing from here on. */
  #moved(frame) {
    if (frame.epoch === this.epoch && frame.offset <= this.offset) return;
    this.#target = frame.offset;
    this.#syncing = this.#history > 0;
    this.#move(frame, true);
    if (this.closed) return;
    if (this.#syncing) this.#catchUp(this.#isVoid);
    else this.live();
  }

  /** Tells the history, then what came meanwhile. */
  async #catchUp(isVoid) {
    await this.#readHistory(isVoid);
    if (isVoid()) return;
    this.#syncing = false;
    for (const early of this.#early.splice(0)) this.take(early);
    if (!this.#syncing) this.live();
  }

  async #readHistory(isVoid) {
    const after = Math.max(0, this.offset - this.#history);
    try {
      const answer = await this.history({ after, limit: this.#history });
      if (isVoid() || answer.epoch !== this.epoch) return;
      for (const message of answer.messages) {
        if (message.offset <= this.offset) this.#tellOnce(message);
      }
    } catch (fault) {
      // A new channel has no history to read; any other fault is reported.
      if (fault.code !== "not_found") this.emit("error", fault);
    }
  }

  /** @protected */
  take(frame) {
    if (this.closed) return;
    if (frame.type === "unsubscribed") {
      if (frame.reason === "deleted") {
        this.epoch = null;
        this.offset = null;
        this.stale();
        this.emit("deleted", frame);
      }
      return;
    }
    if (typeof frame.offset !== "number") {
      // Aimed at some connections only: it has no position in the channel.
      this.#tellOnce(frame);
      return;
    }
    if (this.#syncing) {
      this.#early.push(frame);
      return;
    }
    if (frame.type === "subscribed") {
      this.#moved(frame);
      return;
    }
    if (frame.offset <= this.offset) return;
    while (this.#own.delete(this.offset + 1)) this.offset += 1;
    if (frame.offset !== this.offset + 1) {
      this.emit("gap", { known: this.offset, offset: frame.offset });
      this.stale();
      this.follow();
      return;
    }
    this.offset = frame.offset;
    this.#tellOnce(frame);
    if (this.state !== "live" && this.offset >= this.#target) this.live();
  }

  #tellOnce(frame) {
    if (frame.message_id && !this.#seen.add(frame.message_id)) return;
    this.tell("message", frame);
  }
}

/**
 * A chat room, joined for as long as this lives. Events: `chat` with the frame, `members` with the
 * map of users, `lost`, `state`, `error`.
 */
export class Room extends Emitter {
  /** Names of the users here, by id. @type {Map<string, string>} */
  members = new Map();
  /** How many users there are; more than `members` in a very large room. */
  count = 0;
  #client;
  #closed = false;
  #isJoined = false;
  #stops = [];

  constructor(client, name, options) {
    super();
    this.#client = client;
    this.name = name;
    /** The room's channel. */
    this.channel = client.channel(`chat:${name}`, options);
    const on = (event, listener) => this.#stops.push(this.channel.on(event, listener));
    on("message", (frame) => this.#take(frame));
    on("lost", (event) => this.emit("lost", event));
    on("error", (fault) => this.emit("error", fault));
    on("state", (state) => {
      if (state === "live") {
        this.#join();
        return;
      }
      const wasLive = this.#isJoined;
      this.#isJoined = false;
      if (wasLive) this.emit("state", "stale");
    });
    /** Resolves once the room was joined for the first time. */
    this.ready = new Promise((resolve) => {
      this.#stops.push(this.on("joined", () => resolve(this)));
    });
    if (this.channel.state === "live") this.#join();
  }

  /** `live` while the room is joined and nothing is missed. @type {"live" | "stale"} */
  get state() {
    return this.#isJoined && this.channel.state === "live" ? "live" : "stale";
  }

  /** Says something; resolves with the frame as everyone got it. */
  say(content) {
    return this.#client._call({ type: "chat", room: this.name, content }, { wait: true });
  }

  /** Leaves the room. */
  leave() {
    if (this.#closed) return;
    this.#closed = true;
    for (const stop of this.#stops) stop();
    this.#client._quiet({ type: "leave", room: this.name });
    this.channel.close();
    this.#client._rooms.delete(this.name);
  }

  async #join() {
    try {
      await this.#client._call({ type: "join", room: this.name }, {}, (answer) => {
        this.members = new Map(answer.users.map((user) => [user.user_id, user.username]));
        this.count = answer.count ?? answer.users.length;
        this.#isJoined = true;
        this.emit("joined", this.members);
        this.emit("members", this.members);
        this.emit("state", "live");
      });
    } catch (fault) {
      if (this.#closed || fault.code === "closed") return;
      this.emit("error", fault);
      if (fault.retry) setTimeout(() => this.#again(), BACKOFF_MIN_MS * 2);
    }
  }

  #again() {
    if (!this.#closed && !this.#isJoined && this.channel.state === "live") this.#join();
  }

  #take(frame) {
    if (frame.type === "chat") {
      this.emit("chat", frame);
      return;
    }
    const user = frame.payload;
    if (frame.event === "user.joined") {
      if (!this.members.has(user.user_id)) this.count += 1;
      this.members.set(user.user_id, user.username);
    } else if (frame.event === "user.left") {
      if (this.members.delete(user.user_id)) this.count -= 1;
    } else {
      this.emit("message", frame);
      return;
    }
    this.emit("members", this.members);
  }
}

/**
 * The users who are online. Events: `change` with the map, `joined`, `left`, `state`, `error`.
 * A signed-in client gets the announcements at once; any other reads the list again every few seconds.
 */
export class OnlineView extends View {
  /** By user id. @type {Map<string, object>} */
  users = new Map();
  count = 0;
  #poll;

  /** Ends the view. */
  close() {
    clearTimeout(this.#poll);
    this.client._drop("online", "", this);
    this.finish();
  }

  /** @protected */
  async start(isVoid) {
    clearTimeout(this.#poll);
    const answer = await this.client.http("GET", "/ws/online");
    if (isVoid()) return;
    this.users = new Map(answer.users.map((user) => [user.user_id, user]));
    this.count = answer.count;
    this.live();
    this.tell("change", this.users);
    // The events stop above 1,000 users and do not reach anonymous clients: this replaces them.
    const wait = this.client.userId && this.count < 900 ? 30_000 : 3_000;
    this.#poll = setTimeout(() => this.follow(), wait);
  }

  /** @protected */
  lost() {
    clearTimeout(this.#poll);
    super.lost();
  }

  /** @protected */
  take(frame) {
    const { user_id, username } = frame.data;
    const isNew = frame.message_type === "user_joined";
    if (isNew === this.users.has(user_id)) return;
    if (isNew) this.users.set(user_id, { user_id, username, connections: 1 });
    else this.users.delete(user_id);
    this.count += isNew ? 1 : -1;
    this.tell("change", this.users);
    this.emit(isNew ? "joined" : "left", { user_id, username });
  }
}

/**
 * Direct and group messages, each emitted once: pushed while online, read over HTTP after each reconnect.
 * Events: `message` with `{type, id, from_user_id, to_user_id | group_id, content, created_at}`.
 */
export class Inbox extends View {
  /** The id up to which everything was read. Keep it to go on from there next time. */
  cursor;
  #seen = new Seen();
  /** What is pushed while older messages are still being read. */
  #early = null;

  constructor(client, options = {}) {
    super(client);
    this.cursor = options.after ?? null;
  }

  /** Writes to a user, by id or as `name:bob`; resolves once it is stored. */
  async send(toUserId, content) {
    const body = { to_user_id: await this.client._userId(toUserId), content };
    const answer = await this.client.http("POST", "/api/v1/messages", body);
    const from_user_id = this.client.userId;
    const message = { type: "private", ...answer, from_user_id, ...body };
    this.take(message);
    return message;
  }

  /** Writes to a group; resolves once it is stored. */
  async sendToGroup(groupId, content) {
    const path = `/api/v1/groups/${encodeURIComponent(groupId)}/messages`;
    const answer = await this.client.http("POST", path, { content });
    const from_user_id = this.client.userId;
    const message = { type: "group", ...answer, from_user_id, group_id: groupId, content };
    this.take(message);
    return message;
  }

  /** Ends the view. */
  close() {
    this.client._drop("inbox", "", this);
    this.finish();
  }

  /** @protected */
  async start(isVoid) {
    this.#early ??= [];
    for (;;) {
      const after = this.cursor ? `&after=${encodeURIComponent(this.cursor)}` : "";
      const page = await this.client.http("GET", `/api/v1/messages?limit=100${after}`);
      if (isVoid()) return;
      for (const message of page.messages) {
        this.cursor = message.id;
        this.#tellOnce(message);
      }
      if (!page.next || page.messages.length === 0) break;
      this.cursor = page.next;
    }
    const early = this.#early;
    this.#early = null;
    for (const message of early) this.#tellOnce(message);
    this.live();
  }

  /** @protected */
  take(message) {
    if (this.#early) this.#early.push(message);
    else this.#tellOnce(message);
  }

  #tellOnce(message) {
    if (this.#seen.add(message.id)) this.tell("message", message);
  }
}

/**
 * A registered instance whose lease is kept alive. Events: `registered`, `renewed`, `error`,
 * `ended`.
 */
export class Lease extends Emitter {
  /** When the lease was last renewed, or null. @type {number | null} */
  renewedAt = null;
  /** @type {"pending" | "held" | "ended"} */
  state = "pending";
  /** @private A heartbeat would only cross the registration. */
  _isRegistering = false;
  #client;
  #timer;

  constructor(client, instance) {
    super();
    this.#client = client;
    this.instance = instance;
  }

  /** The key that names it. */
  get key() {
    return instanceKey(this.instance);
  }

  get ttlMs() {
    return this.instance.leaseTtlMs ?? this.#client.leaseTtlMs;
  }

  /** Registers it with other data. */
  async update(fields) {
    const { regionId, serviceId, instanceId } = this.instance;
    this.instance = { ...this.instance, ...fields, regionId, serviceId, instanceId };
    for (const name of Object.keys(this.instance)) {
      if (this.instance[name] === undefined) delete this.instance[name];
    }
    await this._register();
  }

  /** Ends it: the instance is unregistered. */
  async unregister() {
    if (this.state === "ended") return;
    this._end();
    await this.#client._call({ type: "unregister", instance_keys: [this.key] }, { wait: true });
  }

  /** @private */
  _end() {
    this.state = "ended";
    clearTimeout(this.#timer);
    this.#client._leases.delete(this);
    this.emit("ended", this);
  }

  /** @private Asks again in a third of the lease: two heartbeats may be lost. */
  _schedule(wait = this.ttlMs / 3) {
    clearTimeout(this.#timer);
    if (this.state === "ended") return;
    this.#timer = setTimeout(() => this.#client._beat(this), wait);
  }

  /** @private */
  async _register() {
    this._schedule();
    const frame = { type: "register", instances: [this.instance] };
    let answer;
    this._isRegistering = true;
    try {
      answer = await this.#client._call(frame, { wait: true });
    } finally {
      this._isRegistering = false;
    }
    if (this.state === "ended") return;
    const failed = answer.failed_instances?.[0];
    if (failed) {
      const message = failed.errorMessage || "the registry refused the instance";
      throw new FanfareError(failed.errorCode, message, {
        retry: failed.errorCode === "rate-limited" || failed.errorCode === "internal-service-error",
      });
    }
    this._renewed("registered");
  }

  /** @private */
  _renewed(event) {
    if (this.state === "ended") return;
    this.renewedAt = Date.now();
    this.state = "held";
    this._schedule();
    this.emit(event, this);
  }

  /** @private */
  _failed(fault) {
    this.emit("error", fault);
  }
}

/**
 * The connection. It reconnects by itself, renews its subscriptions, and loses nothing that the
 * server still has.
 *
 * Events: `state` (`connecting`, `open`, `waiting`, `stopped`), `welcome`, `close`, `error`,
 * `stopped`, `frame` (`{direction, text, frame}`), `envelope`, `user_joined`, `user_left`,
 * `unauthorized`, `reconnect`.
 */
export class FanfareClient extends Emitter {
  /** @type {"idle" | "connecting" | "open" | "waiting" | "stopped"} */
  state = "idle";
  connectionId = null;
  userId = null;
  nodeId = null;
  /** When the server was last heard of. */
  heardAt = 0;
  /** Why it stopped for good, where it did. @type {FanfareError | null} */
  stoppedBy = null;
  /** When the next attempt is due, while `waiting`. @type {number | null} */
  nextAttemptAt = null;
  /** @private */ _leases = new Set();
  /** @private */ _rooms = new Map();
  #urls;
  #url = 0;
  #source;
  #token = null;
  #WebSocket;
  #fetch;
  #options;
  #socket = null;
  #session = 0;
  #failures = 0;
  #pending = new Map();
  #count = 0;
  #prefix = Math.random().toString(36).slice(2, 8);
  #afterMs = null;
  #openedAt = 0;
  #timers = { wait: undefined, ping: undefined, pong: undefined, refresh: undefined };
  #pinged = false;
  #refused = 0;
  #views = { services: new Map(), channels: new Map(), online: new Map(), inbox: new Map() };
  #beats = new Set();

  /**
   * @param {object} [options]
   * @param {string} [options.url] the server, such as `https://example.org` or, in a page, `/push`;
   *   without it the page's own, at its root
   * @param {string[]} [options.urls] several servers, tried in turn
   * @param {string | (() => Promise<string | null> | string | null)} [options.token]
   * @param {number} [options.requestTimeoutMs]
   * @param {number} [options.pingIntervalMs]
   * @param {number} [options.pongTimeoutMs]
   * @param {number} [options.leaseTtlMs] the server's `lease_ttl`, for instances that set none
   * @param {{region?: string, zone?: string, min?: number}} [options.prefer] whose instances `pick`
   *   chooses; while fewer than `min` (1) are up there, those further away too
   */
  constructor(options = {}) {
    super();
    const urls = options.urls ?? (options.url ? [options.url] : [globalThis.location?.origin]);
    if (urls.length === 0 || !urls[0]) throw new TypeError("fanfare: no url was given");
    this.#urls = urls.map(rooted);
    this.#source = options.token ?? null;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    for (const name of ["WebSocket", "fetch"]) {
      if (options[name] ?? globalThis[name]) continue;
      const here = globalThis.process?.version ? `, and this is ${process.version}` : "";
      throw new TypeError(
        `fanfare: there is no ${name} here. Node 22 or newer is needed${here}; or give the option ${name}`,
      );
    }
    this.#fetch = options.fetch ?? ((...args) => globalThis.fetch(...args));
    this.#options = {
      requestTimeoutMs: 10_000, pingIntervalMs: 15_000, pongTimeoutMs: 8_000, ...options,
    };
    this.leaseTtlMs = options.leaseTtlMs ?? 20_000;
    this.prefer = options.prefer ?? {};
    // A page that comes back to the network or into view reconnects at once.
    this.#wake = () => {
      if (this.state === "waiting") this.#open();
      else if (this.state === "open") this.#ping();
    };
    // The browser may keep a page that was left, with its sockets. For other users it has gone.
    this.#hide = () => {
      if (this.state === "idle" || this.state === "stopped") return;
      clearTimeout(this.#timers.wait);
      this.#detach(1000);
      this.#setState("waiting");
      this.#lost();
    };
  }

  #wake;
  #hide;

  #listen(how) {
    globalThis[how]?.("online", this.#wake);
    globalThis[how]?.("pageshow", this.#wake);
    globalThis[how]?.("pagehide", this.#hide);
  }

  /** The server in use, as `http://host:port`. */
  get url() {
    return this.#urls[this.#url];
  }

  /** Starts, and resolves with the client once it is connected. Views start it by themselves. */
  connect() {
    const isStarted = this.state !== "idle" && this.state !== "stopped";
    if (this.state === "open") return Promise.resolve(this);
    const welcome = new Promise((resolve, reject) => {
      const stops = [];
      const done = (settle) => (value) => {
        for (const stop of stops) stop();
        settle(value);
      };
      stops.push(this.on("welcome", done(() => resolve(this))));
      stops.push(this.on("stopped", done(reject)));
    });
    welcome.catch(() => {});
    if (!isStarted) {
      this.#listen("addEventListener");
      this.stoppedBy = null;
      this.#failures = 0;
      this.#open();
    }
    return welcome;
  }

  /** Ends the connection, and everything that lives on it. */
  close() {
    this.#listen("removeEventListener");
    for (const lease of [...this._leases]) lease._end();
    for (const room of [...this._rooms.values()]) room.leave();
    for (const view of this.#all()) view.close();
    this.#stop(new FanfareError("stopped", "the client was closed", { retry: false }));
  }

  /** Drops the connection and comes back at once. For tests, and after a change of the token. */
  reconnect() {
    if (this.state === "idle" || this.state === "stopped") {
      this.connect();
      return;
    }
    this.#detach(1000);
    this.#lost();
    this.#open();
  }

  // ---- Subscriptions --------------------------------------------------------------------------

  /** A live view of one service. The same one each time, until it is closed. */
  service(serviceId) {
    const id = serviceId.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
    return this.#view("services", id, () => new ServiceView(this, id));
  }

  /** A live view of all services. */
  services() {
    return this.#view("services", "*", () => new AllServicesView(this));
  }

  /**
   * A live view of a channel.
   * @param {string} name
   * @param {{since?: {epoch: string, offset: number}, history?: number}} [options] the position
   *   to resume at, or how many older messages to read first
   */
  channel(name, options) {
    return this.#view("channels", name, () => new ChannelView(this, name, options));
  }

  /** A chat room, joined until it is left. Needs a token. */
  room(name, options = {}) {
    if (!this._rooms.has(name)) this._rooms.set(name, new Room(this, name, options));
    return this._rooms.get(name);
  }

  /** The users who are online. */
  online() {
    return this.#view("online", "", () => new OnlineView(this));
  }

  /** Direct and group messages. Needs a token. `after`: the id of the last one known. */
  inbox(options) {
    return this.#view("inbox", "", () => new Inbox(this, options));
  }

  /** Registers an instance and keeps its lease alive until it is unregistered. */
  async register(instance) {
    const lease = new Lease(this, { ...instance });
    this._leases.add(lease);
    try {
      await lease._register();
    } catch (fault) {
      // A lost connection is no refusal: the lease is renewed after the reconnect.
      if (fault.code !== "closed" && fault.code !== "timeout") {
        lease._end();
        throw fault;
      }
    }
    return lease;
  }

  // ---- Messages -------------------------------------------------------------------------------

  /** Publishes into a channel: `{offset, epoch, message_id}`. */
  publish(channel, payload, { event, metadata, echo } = {}) {
    const frame = { type: "publish", channel, payload };
    if (event !== undefined) frame.event = event;
    if (metadata !== undefined) frame.metadata = metadata;
    if (echo !== undefined) frame.echo = echo;
    return this._call(frame, { wait: true });
  }

  /** Who signs in by a name: `{user_id, username}`, or null. */
  async user(name) {
    try {
      return await this.http("GET", `/api/v1/users?name=${encodeURIComponent(name)}`);
    } catch (fault) {
      if (fault.code === "not_found") return null;
      throw fault;
    }
  }

  /** @private The id of a user who may be given by name. */
  async _userId(user) {
    if (!user.startsWith("name:")) return user;
    const found = await this.user(user.slice(5));
    if (!found) throw new FanfareError("not_found", "there is no such user", { status: 404 });
    return found.user_id;
  }

  /**
   * Sends an envelope to a user, by id or as `name:bob`, or to all: `{delivered_to}`, the number of
   * connections. Text goes as `data.content`.
   */
  async send({ toUserId, messageType = "text", data = {} }) {
    const frame = { id: crypto.randomUUID(), message_type: messageType, data };
    if (toUserId !== undefined) frame.to_user_id = toUserId;
    return (await this._call(frame, { wait: true })).data;
  }

  /** Any frame, answered by its id. For what has no method here. */
  call(frame, options = {}) {
    return this._call(frame, { wait: true, ...options });
  }

  /** The history of a channel over HTTP: `{epoch, messages}`. */
  history(channel, { after, limit } = {}) {
    const query = new URLSearchParams();
    if (after !== undefined) query.set("after", after);
    if (limit !== undefined) query.set("limit", limit);
    const path = `/api/v1/channels/${encodeURIComponent(channel)}/history?${query}`;
    return this.http("GET", path);
  }

  /**
   * Calls the HTTP API with the client's token. Resolves with the JSON of the answer; throws a
   * FanfareError otherwise.
   */
  async http(method, path, body) {
    let answer = await this.#fetchOnce(method, path, body);
    if (answer.status === 401 && typeof this.#source === "function") {
      const before = this.#token;
      const token = await this.#newToken();
      if (token && token !== before) answer = await this.#fetchOnce(method, path, body);
    }
    if (answer.status === 204) return null;
    const text = await answer.text();
    let value = null;
    try {
      value = text === "" ? null : JSON.parse(text);
    } catch {
      // A proxy before the server answered; its status is enough.
    }
    if (answer.ok) return value;
    const { status } = answer;
    const code = value?.code ?? (status >= 500 ? "unavailable" : "invalid_argument");
    if (status === 401) this.emit("unauthorized", { status });
    const message = value?.detail ?? `${method} ${path.split("?")[0]}: ${status}`;
    throw new FanfareError(code, message, { status, retry: status === 429 || status >= 500 });
  }

  async #fetchOnce(method, path, body) {
    if (this.#token === null && this.#source !== null) await this.#newToken();
    const headers = {};
    if (this.#token) headers.authorization = `Bearer ${this.#token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    try {
      return await this.#fetch(this.url + path, { method, headers, body: text });
    } catch (cause) {
      throw new FanfareError("network", "the server could not be reached", { cause });
    }
  }

  async #newToken() {
    const source = this.#source;
    this.#token = (typeof source === "function" ? await source() : source) || null;
    return this.#token;
  }

  // ---- Connecting and closing -----------------------------------------------------------------

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", state);
  }

  async #open() {
    clearTimeout(this.#timers.wait);
    this.nextAttemptAt = null;
    const session = ++this.#session;
    this.#setState("connecting");
    let token;
    try {
      token = await this.#newToken();
    } catch (cause) {
      if (session !== this.#session) return;
      this.emit("error", new FanfareError("unauthorized", "no token could be had", { cause }));
      this.#wait();
      return;
    }
    if (session !== this.#session) return;
    const address = `${this.url.replace(/^http/, "ws")}/ws`;
    let socket;
    try {
      socket = token
        ? new this.#WebSocket(address, ["fanfare", `bearer.${token}`])
        : new this.#WebSocket(address);
    } catch (cause) {
      this.#stop(new FanfareError("invalid_argument", "this address cannot be used", { cause }));
      return;
    }
    this.#socket = socket;
    this.#afterMs = null;
    this.#openedAt = 0;
    const isMine = () => this.#socket === socket;
    // A server that accepts and then stays silent counts as unreachable.
    this.#timers.pong = setTimeout(() => isMine() && this.#cut(), this.#options.requestTimeoutMs);
    socket.onmessage = (event) => isMine() && this.#take(event.data);
    socket.onclose = (event) => isMine() && this.#closed(event.code, event.reason);
    socket.onerror = () => {};
  }

  #take(text) {
    this.heardAt = Date.now();
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    this.emit("frame", { direction: "in", text, frame });
    if (frame.type === "welcome" && this.state !== "open") {
      this.#welcome(frame);
      return;
    }
    this.#answer(frame);
    this.#route(frame);
  }

  #welcome(frame) {
    this.connectionId = frame.connection_id;
    this.userId = frame.user_id;
    this.nodeId = frame.node_id;
    this.#openedAt = Date.now();
    this.#refused = 0;
    this.#setState("open");
    this.#keepAlive();
    this.#planRefresh();
    this.emit("welcome", frame);
    for (const view of this.#all()) view.follow();
    for (const lease of this._leases) if (!lease._isRegistering) this.#beats.add(lease);
    if (this.#beats.size > 0) this.#flushBeats();
  }

  *#all() {
    for (const kind of Object.values(this.#views)) yield* [...kind.values()];
  }

  #answer(frame) {
    const pending = frame.id === undefined ? undefined : this.#pending.get(String(frame.id));
    if (!pending) {
      if (frame.type === "error") this.emit("error", asErrorFrame(frame));
      return;
    }
    // An envelope to the user itself comes back with the same id; only these types are answers.
    const word = frame.message_type;
    if (frame.type === undefined && word !== "ack" && word !== "error" && word !== "pong") return;
    this.#pending.delete(String(frame.id));
    clearTimeout(pending.timer);
    if (frame.type === "error" || (frame.type === undefined && word === "error")) {
      pending.reject(asErrorFrame(frame));
      return;
    }
    pending.now?.(frame);
    pending.resolve(frame);
  }

  #route(frame) {
    switch (frame.type) {
      case "service_change":
      case "service_snapshot":
        this.#views.services.get(frame.service_id)?.take(frame);
        this.#views.services.get("*")?.take(frame);
        return;
      case "private":
      case "group":
        this.#views.inbox.get("")?.take(frame);
        return;
      case "reconnect":
        this.#afterMs = frame.after_ms ?? 0;
        this.emit("reconnect", frame);
        return;
      case "subscribed":
        // With an id it is a late answer. Without: messages were lost, or an operator
        // subscribed this connection.
        if (frame.id !== undefined || frame.channel === undefined) return;
        if (frame.recovered === undefined) {
          this.#views.channels.get(frame.channel)?.restored();
          this.emit("subscribed", frame);
          return;
        }
        if (frame.recovered) return;
      // falls through
      case "text":
      case "json":
      case "event":
      case "system":
      case "chat":
      case "unsubscribed":
        if (frame.type === "unsubscribed" && WITHDRAWN[frame.reason]) {
          const isChannel = frame.channel !== undefined;
          const views = isChannel ? this.#views.channels : this.#views.services;
          views.get(isChannel ? frame.channel : frame.service_id)?.withdrawn(frame.reason);
          this.emit("unsubscribed", frame);
          return;
        }
        if (frame.channel !== undefined) this.#views.channels.get(frame.channel)?.take(frame);
        return;
      case undefined:
        break;
      default:
        return;
    }
    if (frame.message_type === "user_joined" || frame.message_type === "user_left") {
      this.#views.online.get("")?.take(frame);
      this.emit(frame.message_type, frame.data);
    } else if (!["ack", "error", "pong"].includes(frame.message_type)) {
      this.emit("envelope", frame);
    }
  }

  // A browser cannot see protocol pings. So the client sends one of its own after a silence.
  #keepAlive() {
    clearTimeout(this.#timers.pong);
    clearTimeout(this.#timers.ping);
    this.#pinged = false;
    const interval = this.#options.pingIntervalMs;
    const tick = () => {
      if (this.state !== "open") return;
      if (Date.now() - this.heardAt >= interval * 0.9) this.#ping();
      this.#timers.ping = setTimeout(tick, interval);
    };
    this.#timers.ping = setTimeout(tick, interval);
  }

  #ping() {
    if (this.#pinged || this.state !== "open") return;
    this.#pinged = true;
    const since = this.heardAt;
    const socket = this.#socket;
    this._send({ type: "ping" });
    this.#timers.pong = setTimeout(() => {
      this.#pinged = false;
      if (this.#socket === socket && this.heardAt === since) this.#cut();
    }, this.#options.pongTimeoutMs);
  }

  /** Gives up a socket without waiting for its close. */
  #cut() {
    this.#detach(1000);
    this.#closed(1006, "no sign of life");
  }

  #detach(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#session += 1;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    try {
      socket.close(code);
    } catch {
      // It was closing already.
    }
  }

  #lost() {
    for (const name of ["ping", "pong", "refresh"]) clearTimeout(this.#timers[name]);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const one of pending) {
      clearTimeout(one.timer);
      one.reject(new FanfareError("closed", "the connection ended before the answer"));
    }
    for (const view of this.#all()) view.lost();
  }

  async #closed(code, reason) {
    this.#detach(1000);
    const wasOpen = this.state === "open";
    const session = this.#session;
    if (wasOpen && Date.now() - this.#openedAt > STEADY_MS) this.#failures = 0;
    if (wasOpen) this.#setState("waiting");
    this.#lost();
    this.emit("close", { code, reason });
    if (session !== this.#session) return;
    if (code === CLOSE.REMOVED) {
      this.#stop(new FanfareError("removed", "an operator ended this connection"));
      return;
    }
    if (code === CLOSE.TOKEN && typeof this.#source !== "function") {
      this.emit("unauthorized", { status: 401 });
      this.#stop(new FanfareError("token_expired", "the token has expired", { status: 401 }));
      return;
    }
    if (!wasOpen && (await this.#isRefused(session))) return;
    if (session === this.#session) this.#wait(code);
  }

  /** Asks by HTTP why the socket did not open: a page is not told of a 401. */
  async #isRefused(session) {
    let status = 0;
    try {
      const signal = AbortSignal.timeout(5_000);
      const headers = this.#token ? { authorization: `Bearer ${this.#token}` } : {};
      const address = `${this.url}/api/status/node.json`;
      const answer = await this.#fetch(address, { headers, signal });
      status = answer.status;
    } catch {
      if (session === this.#session) this.#explain(false);
      return false;
    }
    if (session === this.#session && status < 400) this.#explain(true);
    if (session !== this.#session || status !== 401) return session !== this.#session;
    this.emit("unauthorized", { status });
    this.#refused += 1;
    // A new token may help one time. If the server refuses it as well, nothing else will.
    if (typeof this.#source === "function" && this.#token && this.#refused < 2) return false;
    this.#stop(new FanfareError("unauthorized", "the server wants a valid token", { status }));
    return true;
  }

  /** Says once what a page cannot see: why a server that may well run opens no socket. */
  #explain(isAnswering) {
    const page = globalThis.location?.origin;
    const isOther = page !== undefined && new URL(this.url).origin !== page;
    if (this.#failures > 0 || !(isAnswering || isOther)) return;
    const origin = page === undefined ? "" : `its --allowed-origins may lack ${page}, or `;
    const message = isAnswering
      ? `the server opens no WebSocket: ${origin}a proxy does not pass the upgrade on`
      : `no answer can be read: the server is away, or its --allowed-origins lacks ${page}`;
    this.emit("error", new FanfareError("network", message));
  }

  #wait(code) {
    const most = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(this.#failures, 12));
    let wait = Math.random() * most;
    if (this.#afterMs !== null) wait = this.#afterMs;
    else if (code === CLOSE.TOO_MANY || code === CLOSE.RATE) wait += LATER_MS;
    // A slow or silent reader, or a token to be changed, comes back to the same server; else try the
    // next.
    if (![CLOSE.SLOW, CLOSE.NO_PONG, CLOSE.TOKEN, CLOSE.RATE].includes(code)) {
      this.#url = (this.#url + 1) % this.#urls.length;
    }
    this.#failures += 1;
    this.nextAttemptAt = Date.now() + wait;
    this.#setState("waiting");
    this.#timers.wait = setTimeout(() => this.#open(), wait);
  }

  #stop(fault) {
    clearTimeout(this.#timers.wait);
    this.#detach(1000);
    this.#lost();
    this.stoppedBy = fault;
    this.nextAttemptAt = null;
    this.#setState("stopped");
    this.emit("stopped", fault);
  }

  /** Renews the token while the old one still holds. */
  #planRefresh() {
    clearTimeout(this.#timers.refresh);
    if (typeof this.#source !== "function" || !this.#token) return;
    const ends = tokenExpiry(this.#token);
    if (ends === null) return;
    const left = ends - Date.now();
    const wait = Math.max(250, left - Math.min(60_000, left * 0.2));
    if (wait > TIMER_MAX_MS) return;
    this.#timers.refresh = setTimeout(() => this.#refresh(), wait);
  }

  async #refresh() {
    const before = this.#token;
    try {
      const token = await this.#newToken();
      if (!token || token === before || this.state !== "open") return;
      await this._call({ type: "refresh", token });
      this.#planRefresh();
    } catch (fault) {
      // The server closes the socket with 4401 when the old token expires; it reconnects then.
      this.emit("error", fault);
    }
  }

  // ---- Used by the views ----------------------------------------------------------------------

  #view(kind, key, make) {
    const views = this.#views[kind];
    let view = views.get(key);
    if (!view) {
      view = make();
      views.set(key, view);
      if (this.state === "open") view.follow();
      else if (this.state === "idle") this.connect();
    }
    return view;
  }

  /** @private */
  _drop(kind, key, view) {
    if (this.#views[kind].get(key) === view) this.#views[kind].delete(key);
  }

  /** @private Sends if there is a connection. A message without an answer needs no error. */
  _quiet(frame) {
    if (this.state === "open") this._send(frame);
  }

  /** @private */
  _send(frame) {
    const text = JSON.stringify(frame);
    this.#socket.send(text);
    this.emit("frame", { direction: "out", text, frame });
  }

  /**
   * @private Sends a request and resolves with its answer. `now` runs in the very turn in which the
   * answer arrives. With `wait` the request waits for a connection.
   */
  async _call(frame, { wait = false, timeoutMs } = {}, now) {
    const limit = timeoutMs ?? this.#options.requestTimeoutMs;
    if (this.state === "stopped") throw this.stoppedBy;
    if (this.state !== "open") {
      if (!wait) throw new FanfareError("closed", "there is no connection");
      await this.#whenOpen(limit);
    }
    return new Promise((resolve, reject) => {
      const id = frame.id ?? `${this.#prefix}-${++this.#count}`;
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new FanfareError("timeout", "the server did not answer in time"));
      }, limit);
      this.#pending.set(id, { resolve, reject, now, timer });
      this._send({ ...frame, id });
    });
  }

  #whenOpen(limit) {
    if (this.state === "idle") this.connect();
    return new Promise((resolve, reject) => {
      const stop = this.on("state", (state) => {
        if (state === "open") done(resolve);
        else if (state === "stopped") done(() => reject(this.stoppedBy));
      });
      const late = () => reject(new FanfareError("closed", "there is no connection"));
      const timer = setTimeout(() => done(late), limit);
      const done = (settle) => {
        stop();
        clearTimeout(timer);
        settle();
      };
    });
  }

  /** @private Heartbeats that are due together leave together. */
  _beat(lease) {
    if (this.state !== "open" || lease._isRegistering) return;
    if (this.#beats.size === 0) setTimeout(() => this.#flushBeats(), 20);
    this.#beats.add(lease);
  }

  async #flushBeats() {
    const leases = [...this.#beats].filter((lease) => lease.state !== "ended");
    this.#beats.clear();
    for (let at = 0; at < leases.length; at += KEYS_PER_FRAME) {
      await this.#beatTogether(leases.slice(at, at + KEYS_PER_FRAME));
    }
  }

  async #beatTogether(leases) {
    for (const lease of leases) lease._schedule();
    const unknown = new Map();
    try {
      const instance_keys = leases.map((lease) => lease.key);
      const answer = await this._call({ type: "heartbeat", instance_keys });
      for (const failed of answer.failed_instance_keys ?? []) {
        const { serviceId = "" } = failed.instanceKey;
        unknown.set(`${serviceId.toLowerCase()} ${instanceName(failed.instanceKey)}`, failed);
      }
    } catch (fault) {
      for (const lease of leases) {
        if (fault.code !== "closed") lease._failed(fault);
        if (fault.retry && this.state === "open") lease._schedule(1_000);
      }
      return;
    }
    for (const lease of leases) {
      const { serviceId } = lease.instance;
      const failed = unknown.get(`${serviceId.toLowerCase()} ${instanceName(lease.instance)}`);
      if (!failed) lease._renewed("renewed");
      else if (failed.errorCode === "data-not-found") {
        lease._register().catch((fault) => lease._failed(fault));
      } else lease._failed(new FanfareError(failed.errorCode, "the lease was not renewed"));
    }
  }
}
