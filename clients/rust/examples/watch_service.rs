//! Follows a service and prints what happens to it.
//!
//! ```sh
//! cargo run --example watch_service -- orders ws://127.0.0.1:8080
//! ```
//!
//! What is known is kept in a file: started while the server is away, it begins with that.

use fanfare_client::{Client, ServiceEvent, Status};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let service = args.next().unwrap_or_else(|| String::from("orders"));
    let url = args.next().unwrap_or_else(|| String::from("ws://127.0.0.1:8080"));
    let file = std::env::temp_dir().join("fanfare-watch-service.json");
    let client = Client::builder().url(url).cache_file(file).start()?;
    let view = client.watch_service(&service)?;
    let mut changes = view.changes();
    let mut status = client.watch_status();
    loop {
        tokio::select! {
            event = changes.next() => match event {
                Some(event) => print(&event),
                None => return Ok(()),
            },
            changed = status.changed() => {
                changed?;
                match &*status.borrow_and_update() {
                    Status::Connected { url, .. } => println!("connected to {url}"),
                    Status::Waiting { error, wait } => {
                        println!("{error}; again in {wait:?}, {:?} old", view.age());
                    }
                    Status::Closed(error) => return Err(error.clone().into()),
                    _ => {}
                }
            }
            _ = tokio::signal::ctrl_c() => return Ok(client.close().await?),
        }
    }
}

fn print(event: &ServiceEvent) {
    match event {
        ServiceEvent::Snapshot(state) => {
            println!(
                "{} at {}: {} instances",
                state.service,
                state.revision,
                state.instances.len()
            );
            for instance in &state.instances {
                println!("  {:?} {:?}", instance.instance_id, instance.url);
            }
        }
        ServiceEvent::Changed(change) => {
            for one in &change.changes {
                let name = one.instance.instance_id.as_deref().unwrap_or_default();
                println!("{} {name}: {:?}, {}", one.change_time, one.change_type, one.reason);
            }
        }
        other => println!("{other:?}"),
    }
}
