// The uws peer: uWebSockets' App with its own publish/subscribe, one topic per service.
//
// The library appends a published message once to the loop's palette and writes each subscriber
// once at the end of the loop turn. What is left to this file is to find a few fields by scanning,
// to build one string per event, and to publish at the right moment, see `publish_later`.
//
// Not here: limits, heartbeats, a registry. What a stalled reader does not take is dropped above
// `maxBackpressure`, silently; the library's default is kept, because that is what its users run.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/time.h>

#include "App.h"

namespace {

constexpr std::string_view epoch = "uws";
constexpr std::string_view welcome =
    R"({"type":"welcome","connection_id":"uws","node_id":"uws","user_id":null,)"
    R"("ping_interval_ms":25000,"version":"0.1.0"})";
constexpr std::string_view registered = R"({"type":"registered","failed_instances":[]})";
constexpr std::string_view registered_http =
    R"({"failedInstances":[],"responseStatus":{"status":"success","errorCode":"success",)"
    R"("message":"","errorMessage":""}})";

struct Session {};

uWS::App *app = nullptr;
std::unordered_map<std::string, unsigned long long> revisions;

/// The string behind `key`, which includes its quotes, its colon and the opening quote.
std::string_view string_after(std::string_view text, std::string_view key) {
    size_t start = text.find(key);
    if (start == std::string_view::npos) return {};
    start += key.size();
    size_t end = text.find('"', start);
    return end == std::string_view::npos ? std::string_view{} : text.substr(start, end - start);
}

/// The length of the object at the start of `text`, or 0 if it has no end. Braces inside strings
/// do not count.
size_t object_bytes(std::string_view text) {
    size_t depth = 0;
    bool is_string = false;
    for (size_t at = 0; at < text.size(); at++) {
        char byte = text[at];
        if (is_string) {
            if (byte == '\\') at++;
            else if (byte == '"') is_string = false;
        } else if (byte == '"') is_string = true;
        else if (byte == '{') depth++;
        else if (byte == '}' && --depth == 0) return at + 1;
    }
    return 0;
}

/// Now, in RFC 3339 with milliseconds. The part down to the second is formatted once a second.
std::string_view now() {
    static char text[40];
    static time_t formatted = 0;
    timeval time;
    gettimeofday(&time, nullptr);
    if (time.tv_sec != formatted) {
        formatted = time.tv_sec;
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S.000Z", gmtime(&formatted));
    }
    int millis = int(time.tv_usec / 1000);
    text[20] = char('0' + millis / 100);
    text[21] = char('0' + millis / 10 % 10);
    text[22] = char('0' + millis % 10);
    return {text, 24};
}

/// Publishes after the handler that runs now has returned.
///
/// While it runs, the publisher's own socket is corked, and only one socket can be. A subscriber
/// that is due its 33rd message of the turn is written to at once, and uncorked that is one write
/// for each of the 33. Under a flood this costs the library nine tenths of its throughput.
void publish_later(const std::string &id, const std::string &frame) {
    static std::vector<std::pair<std::string, std::string>> events;
    events.emplace_back(id, frame);
    if (events.size() > 1) return;
    uWS::Loop::get()->defer([] {
        for (auto &[id, frame] : events) app->publish(id, frame, uWS::OpCode::TEXT);
        events.clear();
    });
}

/// Raises the revision of each instance's service and publishes the change.
void register_instances(std::string_view text) {
    constexpr std::string_view key = "\"instances\":[";
    size_t at = text.find(key);
    if (at == std::string_view::npos) return;
    at += key.size();
    static std::string id, frame;
    while (at < text.size() && text[at] == '{') {
        size_t length = object_bytes(text.substr(at));
        if (length == 0) return;
        std::string_view instance = text.substr(at, length);
        at += length;
        if (at < text.size() && text[at] == ',') at++;

        id = string_after(instance, "\"serviceId\":\"");
        unsigned long long &revision = revisions[id];
        frame.clear();
        frame += R"({"type":"service_change","service_id":")";
        frame += id;
        frame += R"(","epoch":")";
        frame += epoch;
        frame += R"(","from":)";
        frame += std::to_string(revision++);
        frame += R"(,"revision":)";
        frame += std::to_string(revision);
        frame += R"(,"changes":[{"instance":)";
        frame += instance;
        frame += R"(,"changeType":"change","changeTime":")";
        frame += now();
        frame += R"(","reason":"update"}],"degraded":false})";
        publish_later(id, frame);
    }
}

template <typename Socket> void obey(Socket *socket, std::string_view text) {
    std::string_view type = string_after(text, "\"type\":\"");
    if (type == "register") {
        register_instances(text);
        socket->send(registered, uWS::OpCode::TEXT);
    } else if (type == "subscribe") {
        std::string id(string_after(text, "\"service_id\":\""));
        socket->subscribe(id);
        std::string reply = R"({"type":"subscribed","service_id":")" + id + R"(","epoch":")";
        reply += epoch;
        reply += R"(","revision":)" + std::to_string(revisions[id]) + "}";
        socket->send(reply, uWS::OpCode::TEXT);
    } else if (type == "ping") {
        socket->send(R"({"type":"pong"})", uWS::OpCode::TEXT);
    }
}

} // namespace

int main(int count, char **arguments) {
    std::string bind = "127.0.0.1:0";
    if (count == 3 && strcmp(arguments[1], "--bind") == 0) {
        bind = arguments[2];
    } else if (count != 1) {
        fprintf(stderr, "usage: peer-uws [--bind ADDRESS:PORT]\n");
        return 1;
    }
    size_t colon = bind.rfind(':');
    std::string host = bind.substr(0, colon);
    int port = atoi(bind.c_str() + colon + 1);

    uWS::App server;
    app = &server;

    uWS::App::WebSocketBehavior<Session> behavior;
    // A register frame of the stalled mode carries 16 KB; the library's default just refuses it.
    behavior.maxPayloadLength = 64 * 1024;
    behavior.open = [](auto *socket) { socket->send(welcome, uWS::OpCode::TEXT); };
    behavior.message = [](auto *socket, std::string_view text, uWS::OpCode) { obey(socket, text); };
    server.ws<Session>("/ws", std::move(behavior));

    server.post("/api/registry/register.json", [](auto *response, auto *) {
        response->onAborted([] {});
        response->onData([response, body = std::string()](std::string_view chunk, bool is_last) mutable {
            body += chunk;
            if (!is_last) return;
            register_instances(body);
            // A body's handler runs uncorked: without this each part of the answer is a write.
            response->cork([response] {
                response->writeHeader("Content-Type", "application/json")->end(registered_http);
            });
        });
    });

    server.listen(host, port, [&host](us_listen_socket_t *listener) {
        if (!listener) {
            fprintf(stderr, "the address cannot be bound\n");
            exit(1);
        }
        int bound = us_socket_local_port(0, reinterpret_cast<us_socket_t *>(listener));
        printf("listening on http://%s:%d\n", host.c_str(), bound);
        fflush(stdout);
    });
    server.run();
}
