//! The layout: which connection follows which services, by arithmetic instead of a table.
//!
//! Imports nothing of the crate. Imported by `tally`, `fleet` and the scenarios.

/// Which connection follows which services: connection `c` follows `per_connection` services in a
/// row, and the next connection goes on where it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The number of services.
    pub(crate) services: usize,
    /// The number of services that each connection follows.
    pub(crate) per_connection: usize,
}

impl Layout {
    /// The service behind the `slot`-th subscription of a connection.
    pub(crate) fn service_of(self, connection: usize, slot: usize) -> usize {
        (connection * self.per_connection + slot) % self.services
    }

    /// The index of a subscription in the tally, or none if there is no such subscription.
    pub(crate) fn index_of(self, connection: usize, service: usize) -> Option<usize> {
        if service >= self.services {
            return None;
        }
        let first = connection * self.per_connection;
        let slot = (service + self.services - first % self.services) % self.services;
        (slot < self.per_connection).then_some(first + slot)
    }

    /// The service at an index: the inverse of `index_of`.
    pub(crate) fn service_at(self, place: usize) -> usize {
        place % self.services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_services_are_each_others_inverse() {
        for services in 1..7 {
            for per_connection in 1..=services {
                let layout = Layout { services, per_connection };
                for connection in 0..10 {
                    for slot in 0..per_connection {
                        let service = layout.service_of(connection, slot);
                        let place = connection * per_connection + slot;
                        assert_eq!(layout.index_of(connection, service), Some(place));
                        assert_eq!(layout.service_at(place), service);
                    }
                    let found = (0..services + 2)
                        .filter(|service| layout.index_of(connection, *service).is_some());
                    assert_eq!(found.count(), per_connection);
                }
            }
        }
    }
}
