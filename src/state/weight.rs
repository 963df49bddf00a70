//! Which commands may take long: a shard leaves these to a thread that serves no sockets.

use super::State;
use super::command::{Command, MessagingCommand, RegistryCommand};
use crate::id::ServiceName;
use crate::limits;

impl Command {
    /// The entries of a batch; 1 of any other command.
    pub fn entries(&self) -> usize {
        match self {
            Command::Registry(RegistryCommand::Register(batch, _)) => batch.0.len(),
            Command::Registry(RegistryCommand::Heartbeat(batch, _)) => batch.0.len(),
            Command::Registry(RegistryCommand::Unregister(batch, _)) => batch.0.len(),
            Command::Registry(RegistryCommand::OperateTargets(batch, _)) => batch.operations.len(),
            Command::Registry(RegistryCommand::ReadViews(read, _)) => read.0.len(),
            Command::Registry(_) | Command::Messaging(_) => 1,
        }
    }
}

impl State {
    /// Whether a command may take longer than a shard should stand still for it: it walks a whole table, has many
    /// entries, or copies much.
    pub fn is_heavy(&self, command: &Command) -> bool {
        match command {
            _ if command.entries() > limits::ENGINE_LIGHT_ENTRIES_MAX => true,
            Command::Registry(command) => self.is_registry_heavy(command),
            Command::Messaging(command) => is_messaging_heavy(command),
        }
    }

    fn is_registry_heavy(&self, command: &RegistryCommand) -> bool {
        use RegistryCommand as C;
        match command {
            C::Subscribe(subscribe, _) => self.is_service_large(&subscribe.service),
            C::ReadSnapshot(read, _) => self.is_service_large(&read.0),
            C::ReadViews(read, _) => read.0.iter().any(|service| self.is_service_large(service)),
            C::ReadLeases(..)
            | C::ReadAllViews(..)
            | C::ReadDelta(..)
            | C::ListInstances(..)
            | C::OperateTargets(..)
            | C::ChangeItems(..)
            | C::ReadItems(..)
            | C::ReadOperations(..) => true,
            C::Register(..)
            | C::Heartbeat(..)
            | C::Unregister(..)
            | C::SubscribeAll(..)
            | C::Operate(..)
            | C::Protect(..)
            | C::IsInstanceDown(..)
            | C::FindInstance(..)
            | C::RenewInstance(..)
            | C::PutInstance(..) => false,
        }
    }

    fn is_service_large(&self, service: &ServiceName) -> bool {
        self.registry.service_bytes(service) > limits::ENGINE_LIGHT_BYTES_MAX
    }
}

fn is_messaging_heavy(command: &MessagingCommand) -> bool {
    use MessagingCommand as C;
    matches!(
        command,
        C::ApplyAccounts(..)
            | C::EndTokens(..)
            | C::ListChannels(..)
            | C::DescribeChannel(..)
            | C::DeleteChannel(..)
            | C::ListOnline(..)
            | C::ListConnections(..)
            | C::ReadUnwritten(..)
    )
}
