//! A chat service with a robot in it: the server runs inside this program, which greets whoever
//! joins a room and answers `/online`.
//!
//! ```sh
//! cargo run --example chat_service
//! ```
//!
//! It prints a token for each of two people; sign in with them and talk:
//! `{"type":"join","room":"general"}`, `{"type":"chat","content":"/online"}`.

use fanfare::config::{Config, Sources};
use fanfare::server::{CallError, Claims, DomainEvent, Handle, Server, sign_token};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config =
        Config { data_dir: std::env::temp_dir().join("fanfare-chat-service"), ..Config::default() };
    std::fs::create_dir_all(&config.data_dir)?;
    let server = Server::start(&config, &Sources::default())?;
    println!("ws://{}/ws", server.local_addr());
    for name in ["ann", "bob"] {
        let claims = Claims {
            sub: name.to_owned(),
            username: Some(name.to_owned()),
            exp: std::time::UNIX_EPOCH.elapsed()?.as_secs() + 3_600,
            ..Claims::default()
        };
        println!("{name}: {}", sign_token(&config, &claims)?.unwrap_or_default());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            () = robot(server.handle()) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    });
    server.stop();
    Ok(())
}

/// Listens to what happens, and says something to it.
async fn robot(handle: Handle) {
    let mut events = handle.events();
    while let Some(event) = events.next().await {
        let said = match event {
            Ok(DomainEvent::UserJoined { channel, user }) => {
                let room = channel.room().unwrap_or_default().to_owned();
                let text = format!("Welcome to {room}, {}.", user.username);
                handle.chat(&room, "robot", "Robot", &text).await.map(|_| ())
            }
            Ok(DomainEvent::ChannelMessage { channel, message }) => {
                answer(&handle, channel.as_str(), &message).await
            }
            Ok(_) => Ok(()),
            Err(missed) => {
                eprintln!("{missed} events were missed");
                Ok(())
            }
        };
        if let Err(fault) = said {
            eprintln!("the robot was not heard: {fault}");
        }
    }
}

/// Answers a command that somebody typed.
async fn answer(handle: &Handle, channel: &str, message: &[u8]) -> Result<(), CallError> {
    let message: Value = serde_json::from_slice(message).unwrap_or_default();
    if message["type"] != "chat" || message["content"] != "/online" {
        return Ok(());
    }
    let count = handle.channel_count(channel).await?.unwrap_or(0);
    handle.send_event(channel, "robot.online", json!({"connections": count})).await?;
    Ok(())
}
