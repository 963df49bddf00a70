/** Types of the fanfare client. fanfare.js has the promises of each part. */

export type InstanceStatus = "starting" | "up" | "down" | "unhealthy" | "unknown";
export type ChangeType = "new" | "change" | "delete";
export type ChangeReason =
  | "register" | "update" | "unregister" | "expired" | "pull_out" | "pull_in";
export type ErrorCode =
  | "malformed" | "unknown_type" | "invalid_argument" | "too_large" | "too_many_subscriptions"
  | "unauthorized" | "token_expired" | "forbidden" | "not_found" | "conflict" | "rate_limited"
  | "unavailable" | "internal"
  // The client's own.
  | "closed" | "timeout" | "network" | "stopped" | "removed"
  // The registry's.
  | "bad-request" | "data-not-found" | "no-permission" | "rate-limited" | "internal-service-error";

/** An instance as it is registered. */
export interface Instance {
  regionId?: string;
  zoneId?: string;
  groupId?: string;
  serviceId: string;
  instanceId: string;
  machineName?: string;
  ip?: string;
  port?: number;
  protocol?: string;
  url?: string;
  healthCheckUrl?: string;
  status?: InstanceStatus;
  metadata?: Record<string, string>;
  /** 1,000 to 3,600,000. */
  leaseTtlMs?: number;
  /** Its share in a weighted choice, 0 to 10,000; 100 where it gives none. 0: never chosen. */
  weight?: number;
}

/** Whose instances come first. */
export interface Preference {
  region?: string;
  zone?: string;
  /** While fewer are up nearby, those further away count too. */
  min?: number;
}

export interface InstanceKey {
  regionId?: string;
  zoneId?: string;
  serviceId: string;
  groupId?: string;
  instanceId: string;
}

export interface InstanceChange {
  instance: Instance;
  changeType: ChangeType;
  changeTime: string;
  reason: ChangeReason;
}

export interface User {
  user_id: string;
  username: string;
}

export interface OnlineUser extends User {
  connections: number;
  connected_at?: string;
}

export interface Welcome {
  type: "welcome";
  /** `{node_id}-{shard}-{slot}-{generation}`. */
  connection_id: string;
  node_id: string;
  user_id: string | null;
  ping_interval_ms: number;
  version: string;
}

/** A message of a channel, as it is pushed. */
export interface ChannelMessage<P = unknown> {
  type: "text" | "json" | "event" | "system" | "chat";
  channel: string;
  message_id: string;
  /** Not there on a message that was aimed at some connections only. */
  offset?: number;
  payload: P;
  event?: string;
  metadata?: Record<string, unknown>;
  from_user_id?: string;
  timestamp: string;
}

export interface ChatMessage {
  type: "chat";
  room: string;
  channel: string;
  content: string;
  message_id: string;
  offset: number;
  from_user_id: string;
  username: string;
  timestamp: string;
}

export interface Envelope<D = Record<string, unknown>> {
  id: string;
  message_type: string;
  data: D;
  from_user_id?: string;
  to_user_id?: string;
  timestamp: string;
}

export interface PrivateMessage {
  type: "private";
  id: string;
  from_user_id: string;
  to_user_id: string;
  content: string;
  /** Unix seconds. */
  created_at: number;
}

export interface GroupMessage {
  type: "group";
  id: string;
  from_user_id: string;
  group_id: string;
  content: string;
  /** Unix seconds. */
  created_at: number;
}

export type DirectMessage = PrivateMessage | GroupMessage;

export interface Published {
  type: "published";
  channel: string;
  epoch: string;
  offset: number | null;
  message_id: string;
}

export interface ServiceEvent {
  type: "snapshot" | "change" | "degraded";
  /** The older name of `type`. */
  kind: "snapshot" | "change" | "degraded";
  changes: InstanceChange[];
  instances: Instance[];
  epoch: string;
  revision: number;
  degraded: boolean;
}

export interface ServiceState {
  serviceId: string;
  epoch: string;
  revision: number;
  degraded: boolean;
  instances: Map<string, Instance>;
}

export interface AllServicesEvent {
  type: "snapshot" | "change" | "degraded";
  /** The older name of `type`. */
  kind: "snapshot" | "change" | "degraded";
  /** Not there where `type` is `snapshot` and everything was read. */
  serviceId?: string;
  changes: InstanceChange[];
  services?: ServiceState[];
}

export interface FrameEvent {
  direction: "in" | "out";
  text: string;
  frame: Record<string, unknown>;
}

export type ClientState = "idle" | "connecting" | "open" | "waiting" | "stopped";
export type ViewState = "live" | "stale";
export type TokenSource =
  | string
  | (() => Promise<string | null | undefined> | string | null | undefined);

export interface ClientOptions {
  /**
   * The server, such as `https://example.org`; in a page it may be relative, such as `/push`. Without
   * it the page's own server, at its root.
   */
  url?: string;
  /** Several servers, tried in turn. */
  urls?: string[];
  /** A token, or a function that gives one; it is called before each attempt and before expiry. */
  token?: TokenSource;
  /** How long an answer may take. 10,000. */
  requestTimeoutMs?: number;
  /** After how much silence the link is tested. 15,000. */
  pingIntervalMs?: number;
  /** How long the test may take. 8,000. */
  pongTimeoutMs?: number;
  /** The server's `lease_ttl`, for instances that set none. 20,000. */
  leaseTtlMs?: number;
  /** Whose instances `pick` chooses; those further away while fewer than `min` (1) are up there. */
  prefer?: Preference;
  /** Another WebSocket than the global one. */
  WebSocket?: typeof WebSocket;
  /** Another fetch than the global one. */
  fetch?: typeof fetch;
}

export class FanfareError extends Error {
  constructor(
    code: ErrorCode,
    message: string,
    more?: { retry?: boolean; status?: number; cause?: unknown },
  );
  readonly name: "FanfareError";
  readonly code: ErrorCode;
  /** Whether the same call may succeed later. */
  readonly retry: boolean;
  readonly status?: number;
}

/** Region and instance id, without case: the key of an instance in `instances`. */
export function instanceName(instance: Pick<Instance, "regionId" | "instanceId">): string;
export function instanceKey(instance: Instance): InstanceKey;
/** Milliseconds since 1970 when a token ends, or null. */
export function tokenExpiry(token: string): number | null;

declare class Emitter<Events> {
  /** Listens; the function returned ends it. */
  on<K extends keyof Events & string>(name: K, listener: (event: Events[K]) => void): () => void;
  off<K extends keyof Events & string>(name: K, listener: (event: Events[K]) => void): void;
  once<K extends keyof Events & string>(name: K): Promise<Events[K]>;
}

interface ViewEvents {
  state: ViewState;
  error: FanfareError;
}

declare class View<Events extends ViewEvents, Item, Self> extends Emitter<Events> {
  readonly client: FanfareClient;
  readonly state: ViewState;
  readonly closed: boolean;
  /** Resolves when live for the first time; rejects if refused for good. */
  readonly ready: Promise<Self>;
  /** Milliseconds since this was last known to be true. */
  ageMs(): number;
  /** Ends the view and its subscription. */
  close(): void;
  /** The view's events, from the snapshot on; ends with the view. The same as iterating it. */
  changes(): AsyncIterableIterator<Item>;
  [Symbol.asyncIterator](): AsyncIterableIterator<Item>;
}

export interface ServiceEvents extends ViewEvents {
  change: ServiceEvent;
  gap: { known: number; from: number; revision: number };
}

export class ServiceView extends View<ServiceEvents, ServiceEvent, ServiceView> {
  private constructor();
  readonly serviceId: string;
  readonly epoch: string | null;
  readonly revision: number;
  readonly degraded: boolean;
  readonly instances: Map<string, Instance>;
  list(): Instance[];
  /** An instance to call: up, by weight, near ones first, the least recently chosen. */
  pick(): Instance | null;
}

export interface AllServicesEvents extends ViewEvents {
  change: AllServicesEvent;
  gap: { serviceId: string; known?: number; from: number };
}

export class AllServicesView extends View<AllServicesEvents, AllServicesEvent, AllServicesView> {
  private constructor();
  readonly services: Map<string, ServiceState>;
  list(): ServiceState[];
}

export interface ChannelEvents extends ViewEvents {
  message: ChannelMessage<any>;
  /** Messages after `before` are gone for good; the next one is that after `offset`. */
  lost: {
    epoch: string;
    offset: number;
    before: { epoch: string | null; offset: number | null };
  };
  gap: { known: number; offset: number };
  deleted: { channel: string; reason: "deleted" };
}

export class ChannelView extends View<ChannelEvents, ChannelMessage<any>, ChannelView> {
  private constructor();
  readonly name: string;
  readonly epoch: string | null;
  readonly offset: number | null;
  publish(
    payload: unknown,
    options?: { event?: string; metadata?: object; echo?: boolean },
  ): Promise<Published>;
  history(options?: { after?: number; limit?: number }): Promise<{
    epoch: string;
    messages: ChannelMessage<any>[];
  }>;
}

export interface RoomEvents extends ViewEvents {
  chat: ChatMessage;
  members: Map<string, string>;
  joined: Map<string, string>;
  message: ChannelMessage<any>;
  lost: ChannelEvents["lost"];
}

export class Room extends Emitter<RoomEvents> {
  private constructor();
  readonly name: string;
  readonly channel: ChannelView;
  readonly state: ViewState;
  readonly ready: Promise<Room>;
  /** Names by user id. */
  readonly members: Map<string, string>;
  readonly count: number;
  say(content: string): Promise<ChatMessage>;
  leave(): void;
}

export interface OnlineEvents extends ViewEvents {
  change: Map<string, OnlineUser>;
  joined: User;
  left: User;
}

export class OnlineView extends View<OnlineEvents, Map<string, OnlineUser>, OnlineView> {
  private constructor();
  readonly users: Map<string, OnlineUser>;
  readonly count: number;
}

export interface InboxEvents extends ViewEvents {
  message: DirectMessage;
}

export class Inbox extends View<InboxEvents, DirectMessage, Inbox> {
  private constructor();
  /** The id up to which everything was read over HTTP. */
  readonly cursor: string | null;
  /** `toUserId`: an id, or `name:bob`. */
  send(toUserId: string, content: string): Promise<PrivateMessage>;
  sendToGroup(groupId: string, content: string): Promise<GroupMessage>;
}

export interface LeaseEvents {
  registered: Lease;
  renewed: Lease;
  error: FanfareError;
  ended: Lease;
}

export class Lease extends Emitter<LeaseEvents> {
  private constructor();
  readonly instance: Instance;
  readonly key: InstanceKey;
  readonly ttlMs: number;
  readonly state: "pending" | "held" | "ended";
  readonly renewedAt: number | null;
  /** Registers it with other data; `undefined` takes a field away. */
  update(fields: Partial<Instance>): Promise<void>;
  unregister(): Promise<void>;
}

export interface ClientEvents {
  state: ClientState;
  welcome: Welcome;
  close: { code: number; reason: string };
  error: FanfareError;
  stopped: FanfareError;
  unauthorized: { status: number };
  reconnect: { type: "reconnect"; after_ms: number };
  frame: FrameEvent;
  envelope: Envelope<any>;
  user_joined: User;
  user_left: User;
  /** An operator subscribed this connection to a channel. */
  subscribed: { channel: string; epoch: string; offset: number };
  /** A subscription ended unasked. */
  unsubscribed: { channel?: string; service_id?: string; reason: "forbidden" | "operator" };
}

export class FanfareClient extends Emitter<ClientEvents> {
  constructor(options?: ClientOptions);
  readonly state: ClientState;
  readonly url: string;
  readonly connectionId: string | null;
  readonly userId: string | null;
  readonly nodeId: string | null;
  readonly heardAt: number;
  readonly nextAttemptAt: number | null;
  readonly stoppedBy: FanfareError | null;
  leaseTtlMs: number;
  readonly prefer: Preference;

  connect(): Promise<FanfareClient>;
  reconnect(): void;
  close(): void;

  service(serviceId: string): ServiceView;
  services(): AllServicesView;
  channel(
    name: string,
    options?: { since?: { epoch: string; offset: number }; history?: number },
  ): ChannelView;
  room(name: string, options?: { history?: number }): Room;
  online(): OnlineView;
  inbox(options?: { after?: string }): Inbox;
  register(instance: Instance): Promise<Lease>;

  publish(
    channel: string,
    payload: unknown,
    options?: { event?: string; metadata?: object; echo?: boolean },
  ): Promise<Published>;
  /** The user with a name. */
  user(name: string): Promise<User | null>;
  /** Text goes as `data.content`. */
  send(envelope: {
    /** An id, or `name:bob`. Left out: every other user online. */
    toUserId?: string;
    messageType?: string;
    data?: object;
  }): Promise<{ delivered_to: number }>;
  call(
    frame: Record<string, unknown>,
    options?: { wait?: boolean; timeoutMs?: number },
  ): Promise<Record<string, any>>;
  history(
    channel: string,
    options?: { after?: number; limit?: number },
  ): Promise<{ epoch: string; messages: ChannelMessage<any>[] }>;
  http<T = any>(method: string, path: string, body?: unknown): Promise<T>;
}
