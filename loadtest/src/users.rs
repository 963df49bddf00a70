//! Users: signed-in sockets on one thread, and the messages that each of them reads.
//!
//! Fewer and slower than the fleet, because every message is decoded as JSON: chat and direct
//! messages are about users, not about the number of sockets that one thread can read.
//!
//! Imports `frame`, `client_socket`, `target`. Imported by the scenarios.

use std::io;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::client_socket::{self, ClientSocket};
use crate::frame::{self, Opcode};
use crate::target::Target;

/// How long a token of ours lasts, in seconds: longer than any test.
const TOKEN_S: u64 = 24 * 3_600;

/// Signed-in users with a socket each.
#[derive(Debug)]
pub(crate) struct UserSockets {
    sockets: Vec<ClientSocket>,
    mask_key: u32,
    /// Connections that the server ended.
    pub(crate) closed: u64,
}

/// The id of the nth user of a run.
pub(crate) fn user(run_id: &str, n: usize) -> String {
    format!("load-{run_id}-{n}")
}

/// A token for a user, signed with the server's secret.
pub(crate) fn token(secret: &str, user: &str) -> io::Result<String> {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let claims = json!({"sub": user, "username": user, "exp": now + TOKEN_S, "scope": "message"});
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(io::Error::other)
}

/// Removes the first `count` users of a run from the server. Fails with the number of remaining
/// ones, and the reason.
pub(crate) fn remove(
    target: &Target,
    secret: &str,
    run_id: &str,
    count: usize,
) -> Result<(), (usize, io::Error)> {
    let (mut left, mut last) = (0, None);
    for n in 0..count {
        let name = user(run_id, n);
        let removed = token(secret, &name)
            .and_then(|token| target.signed_in(&token).call("DELETE", "/api/v1/users/me"));
        let fault = match removed {
            Ok(204) => continue,
            Ok(status) => io::Error::other(format!("the server answers {status}")),
            Err(fault) => fault,
        };
        (left, last) = (left + 1, Some(fault));
    }
    last.map_or(Ok(()), |fault| Err((left, fault)))
}

impl UserSockets {
    /// Connects `count` users, one after the other.
    pub(crate) fn connect(
        target: &Target,
        secret: &str,
        run_id: &str,
        count: usize,
    ) -> io::Result<UserSockets> {
        let sockets = (0..count).map(|n| {
            let token = token(secret, &user(run_id, n))?;
            ClientSocket::open(&target.signed_in(&token))
        });
        Ok(UserSockets { sockets: sockets.collect::<io::Result<_>>()?, mask_key: 1, closed: 0 })
    }

    /// Has a user send a message with the next turn.
    pub(crate) fn say(&mut self, user: usize, text: &str) {
        self.mask_key = self.mask_key.wrapping_add(0x9e37_79b9);
        let out = &mut self.sockets[user].outgoing;
        frame::encode(Opcode::Text, text.as_bytes(), self.mask_key, out);
    }

    /// Writes and reads what is possible, waiting for it at most `timeout`. Every message goes to
    /// `hear`, with the user who got it.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        hear: &mut impl FnMut(usize, &Value),
    ) -> io::Result<()> {
        self.sockets.iter_mut().try_for_each(ClientSocket::flush)?;
        for user in client_socket::wait(&self.sockets, timeout)? {
            if let Err(fault) = self.read(user, hear) {
                self.closed += 1;
                return Err(io::Error::new(fault.kind(), format!("user {user}: {fault}")));
            }
        }
        Ok(())
    }

    fn read(&mut self, user: usize, hear: &mut impl FnMut(usize, &Value)) -> io::Result<()> {
        let socket = &mut self.sockets[user];
        socket.fill()?;
        let incoming = std::mem::take(&mut socket.incoming);
        let mut end = 0;
        while let Some(frame) = frame::decode(&incoming, end).map_err(io::Error::other)? {
            end = frame.payload.end;
            let payload = &incoming[frame.payload.clone()];
            match frame.opcode {
                Opcode::Ping => frame::encode(Opcode::Pong, payload, 5, &mut socket.outgoing),
                Opcode::Close => {
                    let code = payload.first_chunk().map_or(1005, |c| u16::from_be_bytes(*c));
                    return Err(io::Error::other(format!("closed by the server with {code}")));
                }
                Opcode::Text => {
                    let message = serde_json::from_slice(payload).map_err(io::Error::other)?;
                    hear(user, &message);
                }
                _ => {}
            }
        }
        socket.incoming = incoming;
        socket.incoming.drain(..end);
        Ok(())
    }
}
