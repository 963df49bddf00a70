//! The server's binary.
use std::io::Write as _;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = fanfare::config::Config::temp();
    let server = fanfare::server::Server::start(&config, serde_json::Map::new()).unwrap();
    println!("fanfare listening on http://{}", server.local_addr());
    std::io::stdout().flush().unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
        std::future::poll_fn(|cx| if term.poll_recv(cx).is_ready() || int.poll_recv(cx).is_ready() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }).await;
    });
    server.stop();
}
