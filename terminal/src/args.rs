//! The flags.
//!
//! Imports nothing of the crate. Imported by `main` and `identity`.

use std::fmt;

use clap::Parser;

/// Talks to a fanfare server: type commands, see what comes in. Lines can be piped in, too.
#[derive(Parser)]
#[command(name = "websocket_client", version)]
pub(crate) struct Args {
    /// The server's WebSocket endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws")]
    pub(crate) url: String,
    /// Who to sign in as
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// The address that goes with a new account or token
    #[arg(long)]
    pub(crate) email: Option<String>,
    /// The token to sign in with
    #[arg(long, env = "FANFARE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The secret to sign a token of one's own with, where none is given
    #[arg(long, env = "JWT_SECRET", hide = true, hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,
    /// The password of the account, where nobody is there to be asked
    #[arg(long, env = "FANFARE_PASSWORD", hide = true, hide_env_values = true)]
    pub(crate) password: Option<String>,
    /// Sends no pings of its own
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true
    )]
    #[arg(action = clap::ArgAction::Set)]
    pub(crate) no_auto_ping: bool,
    /// Prints every message as the JSON it came in, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl fmt::Debug for Args {
    /// Without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Args")
            .field("url", &self.url)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_turned_off_with_or_without_a_value() {
        let read = |args: &[&str]| {
            let program = ["websocket_client"];
            Args::try_parse_from(program.iter().chain(args)).map(|args| args.no_auto_ping).ok()
        };
        assert_eq!(read(&[]), Some(false));
        assert_eq!(read(&["--no-auto-ping"]), Some(true));
        assert_eq!(read(&["--no-auto-ping", "--json"]), Some(true));
        assert_eq!(read(&["--no-auto-ping=true"]), Some(true));
        assert_eq!(read(&["--no-auto-ping=false"]), Some(false));
        assert_eq!(read(&["--no-auto-ping=maybe"]), None);
    }
}
