//! The state of one node as its callers see it, against simpler models: commands and entries of the log go in,
//! effects come out, and time is handed in.

#![allow(clippy::cast_possible_truncation, reason = "numbers out of a small range")]

mod formats;
mod histories;
mod install;
mod journal;
mod leases;
mod listing;
mod names;
mod node;
mod presence;
mod replicated_channel;
mod snapshots;
mod store_sets;
mod user_names;
