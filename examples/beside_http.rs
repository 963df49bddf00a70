//! A web application with pages of its own, and the server beside it in the same process.
//!
//! The application is hyper here; axum, actix or any other does as well, because the two share
//! nothing but the process: the application listens at its own address, and speaks to the server
//! through its handle.
//!
//! ```text
//! cargo run --example beside_http
//! curl -d '{"text": "hello"}' http://127.0.0.1:3000/notify
//! ```
//!
//! Whoever follows the channel `news` at `ws://127.0.0.1:8080/ws` gets the text.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fanfare::config::{Config, Sources};
use fanfare::server::{Handle, Message, Server};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Where the application listens. The server has its own address, `127.0.0.1:8080`.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);

/// Longest body that the application reads, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start(&Config::default(), &Sources::default())?;
    let listener = TcpListener::bind(ADDRESS).await?;
    println!("the application: http://{}", listener.local_addr()?);
    println!("the server: ws://{}/ws", server.local_addr());
    tokio::select! {
        result = serve(listener, server.handle()) => result?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    // The application first, so that nothing is sent to a server that stops.
    server.stop();
    Ok(())
}

/// The application's own server: a task for each connection.
async fn serve(listener: TcpListener, handle: Handle) -> Result<(), std::io::Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        let handle = handle.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, handle.clone()));
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away in the middle is no fault of the application.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The application's routes.
async fn answer(
    request: Request<Incoming>,
    handle: Handle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match (request.method(), request.uri().path()) {
        (&Method::POST, "/notify") => notify(request, &handle).await,
        (&Method::GET, "/") => Ok(json!({"sockets": handle.connection_count()})),
        _ => Err((StatusCode::NOT_FOUND, "there is no such page".to_owned())),
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err((status, message)) => (status, json!({"error": message})),
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    Ok(response)
}

async fn notify(
    request: Request<Incoming>,
    handle: &Handle,
) -> Result<Value, (StatusCode, String)> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|fault| (StatusCode::BAD_REQUEST, fault.to_string()))?.to_bytes();
    let note: Value = serde_json::from_slice(&body)
        .map_err(|fault| (StatusCode::BAD_REQUEST, fault.to_string()))?;
    let message = Message::new(&note["text"]).with_metadata(json!({"by": "the application"}));
    match handle.publish("news", message).await {
        Ok(published) => Ok(json!({"delivered_to": published.delivered_to})),
        Err(refusal) => Err((StatusCode::SERVICE_UNAVAILABLE, refusal.to_string())),
    }
}
