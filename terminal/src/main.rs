//! An interactive client of a fanfare server, for people and for scripts.
//!
//! ```text
//! prompt --> command --> session <--> server
//!                         |    |
//!                    renewal  screen <-- phrase
//! ```
//!
//! A person gets a prompt, a history and colours. A script pipes commands in and, with `--json`,
//! reads JSON lines. Exit status: 0 when every line was carried out, 1 when one was refused or the
//! connection was lost, 2 for wrong flags.

mod args;
mod command;
mod identity;
mod phrase;
mod prompt;
mod renewal;
mod screen;
mod session;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use fanfare_client::Api;

use crate::args::Args;
use crate::renewal::Renewal;
use crate::screen::Screen;
use crate::session::{Ending, Session};

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&args)),
        Err(fault) => Err(fault.to_string()),
    };
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::WithFaults | Ending::Lost) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("websocket_client: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<Ending, String> {
    let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let api = Api::new(&args.url).map_err(|fault| fault.to_string())?;
    let api = identity::sign_in(args, api, is_interactive).await?;
    let socket = api.open_socket().await.map_err(|fault| format!("{}: {fault}", args.url))?;
    let (mut lines, printer) = if is_interactive {
        prompt::terminal(history_file()).map_err(|fault| fault.to_string())?
    } else {
        (prompt::pipe(), Screen::plain())
    };
    let mut screen = Screen::new(printer, args.json, is_interactive && !args.json);
    let session = Session {
        api: &api,
        socket,
        renewal: Renewal::new(api.clone()),
        screen: &mut screen,
        is_pinging: !args.no_auto_ping,
        is_interactive,
        pinged_at: None,
    };
    // A reader that has closed the pipe, as `head` does, is not a fault.
    Ok(session.run(&mut lines).await.unwrap_or(Ending::Done))
}

fn history_file() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".websocket_client_history"))
}
