//! One WebSocket to a server: texts in both directions, and the reason of its end.
//!
//! Imports `address`, `error` and its siblings. Imported by `connection` and `api`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream as _;
use futures_sink::Sink as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::address::Address;
use crate::error::Error;
use crate::transport::http;
use crate::transport::net::{self, Stream};

/// Messages that wait to be written before no more are accepted.
const OUTGOING_MAX: usize = 256;

/// An incoming message.
pub(crate) enum Incoming {
    /// A frame.
    Text(tungstenite::Utf8Bytes),
    /// A sign that the other side is alive.
    Sign,
}

/// An open connection.
pub(crate) struct Socket {
    socket: WebSocketStream<Stream>,
    outgoing: VecDeque<Message>,
}

impl Socket {
    /// Connects and shakes hands. The caller bounds the time.
    pub(crate) async fn open(
        address: &Address,
        token: Option<&str>,
        message_bytes_max: usize,
    ) -> Result<Socket, Error> {
        let request = address.socket_url().into_client_request();
        let mut request = request.map_err(|fault| Error::invalid(fault.to_string()))?;
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::invalid("the token does not fit a header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        // A snapshot is one frame, so both bounds are the same.
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1_024)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let stream = net::connect(address).await?;
        match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(Socket { socket, outgoing: VecDeque::new() }),
            Err(tungstenite::Error::Http(answer)) => {
                let after = answer.headers().get("retry-after");
                let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
                let body = answer.body().as_deref().unwrap_or_default();
                Err(http::problem(answer.status(), body, after.map(Duration::from_secs)))
            }
            Err(fault) => Err(lost(fault)),
        }
    }

    /// Whether one more message may wait to be written.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }

    /// Adds a message. It leaves while [`Socket::next`] is awaited.
    pub(crate) fn push(&mut self, text: String) {
        self.outgoing.push_back(Message::text(text));
    }

    /// Sends a ping.
    pub(crate) fn ping(&mut self) {
        self.outgoing.push_back(Message::Ping(bytes::Bytes::new()));
    }

    /// Sends the close frame.
    pub(crate) fn close(&mut self) {
        let frame = CloseFrame { code: 1000.into(), reason: "".into() };
        self.outgoing.push_back(Message::Close(Some(frame)));
    }

    /// The next incoming message. Writes waiting messages meanwhile. Nothing is lost when the
    /// future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Incoming, Error> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Error>> {
        if let Poll::Ready(Err(fault)) = self.poll_write(cx) {
            // The server may have sent the reason before it closed.
            return match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => Poll::Ready(read(message)),
                _ => Poll::Ready(Err(lost(fault))),
            };
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => Poll::Ready(read(message)),
            Poll::Ready(Some(Err(fault))) => Poll::Ready(Err(lost(fault))),
            Poll::Ready(None) => {
                Poll::Ready(Err(Error::Closed { code: 1006, reason: String::new() }))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tungstenite::Error>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.outgoing.is_empty() {
            std::task::ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(message) = self.outgoing.pop_front() {
                socket.as_mut().start_send(message)?;
            }
        }
        socket.poll_flush(cx)
    }
}

fn read(message: Message) -> Result<Incoming, Error> {
    match message {
        Message::Text(text) => Ok(Incoming::Text(text)),
        Message::Close(frame) => Err(match frame {
            Some(frame) => {
                Error::Closed { code: frame.code.into(), reason: frame.reason.to_string() }
            }
            None => Error::Closed { code: 1005, reason: String::new() },
        }),
        _ => Ok(Incoming::Sign),
    }
}

fn lost(fault: tungstenite::Error) -> Error {
    match fault {
        tungstenite::Error::Io(fault) => Error::connect(fault),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            Error::Closed { code: 1006, reason: String::new() }
        }
        tungstenite::Error::Url(fault) => Error::invalid(fault.to_string()),
        fault => Error::Protocol(fault.to_string()),
    }
}
