//! Snapshots whose near instances stand first, for the connections that ask for it.
//!
//! Connections that come back together ask for the same list: the newest ones are kept, so that they are ordered and
//! in memory once.
//!
//! Imports `limits`, `state` and `wire`. Part of `shard`.

use std::collections::VecDeque;

use crate::limits;
use crate::state::registry::views::View;
use crate::wire::instance_list::InstanceList;
use crate::wire::preference::Preference;

/// The newest ordered lists: at most [`limits::NEAREST_LISTS_KEPT_MAX`].
#[derive(Debug, Default)]
pub(super) struct NearestLists(VecDeque<Ordered>);

#[derive(Debug)]
struct Ordered {
    /// Without its instances.
    of: View,
    preference: Preference,
    list: InstanceList,
}

impl NearestLists {
    /// The instances of a view in the order of a preference. Those of a list of over
    /// [`limits::NEAREST_LIST_BYTES_MAX`] bytes stand as they are: it is shared by all that are sent it.
    pub(super) fn of(&mut self, view: &View, preference: &Preference) -> InstanceList {
        if view.instances.bytes() > limits::NEAREST_LIST_BYTES_MAX {
            return view.instances.clone();
        }
        let is_it = |kept: &&Ordered| {
            (kept.of.revision, &kept.of.service, &kept.of.epoch)
                == (view.revision, &view.service, &view.epoch)
                && (&kept.preference.region, &kept.preference.zone)
                    == (&preference.region, &preference.zone)
        };
        if let Some(kept) = self.0.iter().find(is_it) {
            return kept.list.clone();
        }
        let list = view.instances.nearest_first(preference);
        self.0.truncate(limits::NEAREST_LISTS_KEPT_MAX - 1);
        let of = View { instances: InstanceList::empty(), ..view.clone() };
        self.0.push_front(Ordered { of, preference: preference.clone(), list: list.clone() });
        list
    }
}
