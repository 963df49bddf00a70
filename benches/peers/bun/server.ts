// The bun peer: Bun.serve with its built-in publish/subscribe, one topic per service.
//
// The runtime frames a published text once and hands it to its subscribers in native code, so
// what is left to this file is to parse a command and to build one string per event.
//
// Not here: limits, heartbeats, a registry. Bun drops silently what a stalled reader does not
// take beyond `backpressureLimit`; its default is kept, because that is what its users run.

import { parseArgs } from "node:util";

type Instance = { serviceId: string };

const EPOCH = "bun";

const { values } = parseArgs({ options: { bind: { type: "string", default: "127.0.0.1:0" } } });
const colon = values.bind!.lastIndexOf(":");

const revisions = new Map<string, number>();

const WELCOME = JSON.stringify({
  type: "welcome",
  connection_id: EPOCH,
  node_id: EPOCH,
  user_id: null,
  ping_interval_ms: 25000,
  version: "0.1.0",
});
const REGISTERED = JSON.stringify({ type: "registered", failed_instances: [] });
const REGISTERED_HTTP = JSON.stringify({
  failedInstances: [],
  responseStatus: { status: "success", errorCode: "success", message: "", errorMessage: "" },
});
const JSON_HEADERS = { headers: { "Content-Type": "application/json" } };

/** Raises the revision of each instance's service and publishes the change. */
function register(instances: Instance[]) {
  for (const instance of instances) {
    const id = instance.serviceId;
    const from = revisions.get(id) ?? 0;
    revisions.set(id, from + 1);
    const change = {
      type: "service_change",
      service_id: id,
      epoch: EPOCH,
      from,
      revision: from + 1,
      changes: [
        { instance, changeType: "change", changeTime: new Date().toISOString(), reason: "update" },
      ],
      degraded: false,
    };
    server.publish(id, JSON.stringify(change));
  }
}

const server = Bun.serve({
  hostname: values.bind!.slice(0, colon),
  port: Number(values.bind!.slice(colon + 1)),
  async fetch(request, server) {
    const path = new URL(request.url).pathname;
    if (path === "/ws" && server.upgrade(request)) return undefined;
    if (path === "/api/registry/register.json" && request.method === "POST") {
      const body = (await request.json()) as { instances: Instance[] };
      register(body.instances);
      return new Response(REGISTERED_HTTP, JSON_HEADERS);
    }
    return new Response(null, { status: 404 });
  },
  websocket: {
    open(socket) {
      socket.send(WELCOME);
    },
    message(socket, text) {
      const command = JSON.parse(text as string);
      switch (command.type) {
        case "subscribe": {
          const id = command.service_id;
          socket.subscribe(id);
          const revision = revisions.get(id) ?? 0;
          socket.send(
            JSON.stringify({ type: "subscribed", service_id: id, epoch: EPOCH, revision }),
          );
          break;
        }
        case "register":
          register(command.instances);
          socket.send(REGISTERED);
          break;
        case "ping":
          socket.send('{"type":"pong"}');
          break;
      }
    },
  },
});

console.log(`listening on http://${server.hostname}:${server.port}`);
