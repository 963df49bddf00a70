//! Channels against simpler tables: histories, bounds and rosters.

use std::sync::Arc;

use super::*;
use crate::id::{Slot, UserId};
use crate::rng::Rng;
use crate::state::people::Person;

fn channels(history_max: usize, history_bytes_max: usize) -> Channels {
    let settings = Settings {
        namespaces: Arc::default(),
        history_max,
        history_bytes_max,
        channels_max: 50,
        per_connection_max: 20,
        per_address_max: None,
    };
    Channels::new(settings, "e-", std::iter::empty())
}

fn publish(channels: &mut Channels, name: &str, bytes: usize, now_ms: u64) -> (u32, u64) {
    let key = channels.find_or_new(&ChannelName::new(name), None).expect("room");
    let offset = channels.advance(key);
    channels.keep(key, &Bytes::from(vec![0; bytes]), now_ms);
    (key, offset)
}

fn since(channels: &Channels, key: u32, offset: u64) -> SinceOffset {
    SinceOffset { epoch: channels.get(key).epoch.as_str().into(), offset }
}

#[test]
fn a_resume_is_all_or_nothing() {
    let mut channels = channels(3, 1_000);
    let mut key = 0;
    for _ in 0..5 {
        key = publish(&mut channels, "c", 10, 1_000).0;
    }
    let mut missed = |offset| {
        let since = since(&channels, key, offset);
        channels.replay(key, &since, 1_000).map(|frames| frames.len())
    };
    assert_eq!((missed(5), missed(4), missed(2)), (Some(0), Some(1), Some(3)));
    assert_eq!((missed(1), missed(0), missed(6)), (None, None, None));
    let other = SinceOffset { epoch: "other".into(), offset: 5 };
    assert_eq!(channels.replay(key, &other, 1_000), None);
    let later = 1_000 + limits::CHANNEL_HISTORY_MS_DEFAULT;
    let since = since(&channels, key, 4);
    assert_eq!(channels.replay(key, &since, later), None, "it has become too old");
}

#[test]
fn a_forgotten_channel_comes_back_with_another_epoch() {
    let mut channels = channels(3, 1_000);
    let (key, _) = publish(&mut channels, "c", 10, 1_000);
    let before = since(&channels, key, 1);
    channels.sweep(1_000 + limits::CHANNEL_HISTORY_MS_DEFAULT);
    assert!(channels.is_empty() && channels.history_bytes() == 0);
    let (key, offset) = publish(&mut channels, "c", 10, 9_000_000);
    assert_eq!((offset, channels.replay(key, &before, 9_000_000)), (1, None));
}

/// Random publishing into random channels, and dropping of the oldest of all, against a flat list
/// of what must be kept.
#[test]
fn histories_stay_within_their_bounds() {
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let mut channels = channels(8, 700);
        let mut model: VecDeque<(u64, u64, usize)> = VecDeque::new();
        for step in 0..3_000 {
            if rng.below(10) == 0 {
                channels.drop_oldest_history();
                model.pop_front();
            } else {
                // Now and then one that is larger than a history may be.
                let span = if rng.below(20) == 0 { 1_000 } else { 200 };
                let (which, bytes) = (rng.below(12), 1 + rng.below(span) as usize);
                let (_, offset) = publish(&mut channels, &format!("c{which}"), bytes, step);
                model.push_back((which, offset, bytes));
                let of_this = |model: &VecDeque<(u64, u64, usize)>| {
                    let of_this = model.iter().filter(|one| one.0 == which);
                    of_this.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.2))
                };
                while of_this(&model).0 > 8 || of_this(&model).1 > 700 {
                    let oldest = model.iter().position(|one| one.0 == which).expect("there");
                    model.remove(oldest);
                }
            }
            for which in 0..12 {
                let Some(key) = channels.find(&ChannelName::new(&format!("c{which}"))) else {
                    continue;
                };
                let want = model.iter().filter(|one| one.0 == which).count();
                assert_eq!(channels.get(key).after(0, usize::MAX).len(), want, "seed {seed}");
            }
            assert_eq!(channels.history_bytes(), model.iter().map(|one| one.2).sum::<usize>());
            assert!(channels.ages.len() <= 2_048, "entries of what is gone pile up");
        }
    }
}

fn conn(slot: u32) -> Creator {
    from(slot, None)
}

fn from(slot: u32, block: Option<AddressBlock>) -> Creator {
    let conn = ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 };
    Creator { conn: Some(conn), block }
}

fn block(text: &str) -> AddressBlock {
    AddressBlock::of(text.parse().expect("an address"))
}

#[test]
fn what_nobody_follows_gives_way_and_what_is_followed_does_not() {
    let mut channels = channels(3, 1_000);
    let name = |n: usize| ChannelName::new(&format!("c{n}"));
    channels.define(name(0), "");
    for n in 0..50 {
        publish(&mut channels, name(n).as_str(), 10, 1_000);
    }
    let followed = channels.find(&name(1)).expect("there");
    channels.add_member(followed, 7, ShardId(0));
    publish(&mut channels, name(2).as_str(), 10, 1_001);
    let key = channels.find_or_new(&name(50), None).expect("one gives way");
    assert_eq!(channels.find(&name(3)), None, "it was used last the longest ago");
    let there = |channels: &Channels, n| channels.find(&name(n)).is_some();
    assert!([0, 1, 2, 4].iter().all(|&n| there(&channels, n)));
    // One without history goes before any with one.
    channels.find_or_new(&name(51), None).expect("one gives way");
    assert!(there(&channels, 4) && !there(&channels, 50) && channels.forgotten() == 2);
    drop(channels.delete(channels.find(&name(51)).expect("there")));
    for n in 0..channels.len() + 50 {
        if let Some(key) = channels.find(&name(n)) {
            channels.add_member(key, 9, ShardId(0));
        }
    }
    channels.find_or_new(&name(90), None).expect("room for one");
    channels.add_member(channels.find(&name(90)).expect("there"), 9, ShardId(0));
    assert_eq!(channels.find_or_new(&name(91), None), Err(TooMany::InAll));
    channels.remove_member(followed, 9, ShardId(0));
    assert_eq!(channels.find_or_new(&name(91), None), Err(TooMany::InAll), "7 follows it");
    channels.remove_member(followed, 7, ShardId(0));
    assert!(channels.find_or_new(&name(91), None).is_ok() && !there(&channels, 1));
    let _ = key;
}

#[test]
fn a_connection_brings_so_many_into_being_and_gets_them_back() {
    let mut channels = channels(3, 1_000);
    let name = |n: usize| ChannelName::new(&format!("c{n}"));
    for n in 0..20 {
        assert!(channels.find_or_new(&name(n), Some(conn(1))).is_ok());
    }
    let one_more = |channels: &mut Channels, who| channels.find_or_new(&name(20), Some(who));
    assert_eq!(one_more(&mut channels, conn(1)), Err(TooMany::OfConnection));
    assert!(channels.find_or_new(&name(3), Some(conn(1))).is_ok(), "it is there");
    assert!(one_more(&mut channels, conn(2)).is_ok(), "another one may");
    channels.sweep(1);
    assert!(channels.is_empty() && channels.created.is_empty());
    assert!(one_more(&mut channels, conn(1)).is_ok());
}

/// How many of thirty connections of a block may each bring a channel into being.
fn admitted(per_address_max: Option<usize>, address: &str) -> usize {
    let mut channels = channels(3, 1_000);
    channels.settings.per_address_max = per_address_max;
    let may = |n: &u32| {
        let name = ChannelName::new(&format!("c{n}"));
        channels.find_or_new(&name, Some(from(*n, Some(block(address))))).is_ok()
    };
    (0..30).filter(may).count()
}

#[test]
fn an_address_may_fill_a_fifth_unless_set_and_loopback_all_unless_set() {
    for (per_address_max, theirs, ours) in [(None, 10, 30), (Some(7), 7, 7), (Some(0), 30, 30)] {
        assert_eq!(admitted(per_address_max, "192.0.2.1"), theirs, "{per_address_max:?}");
        assert_eq!(admitted(per_address_max, "127.0.0.1"), ours, "{per_address_max:?}");
    }
}

/// Random channels that come from random connections of a few blocks and go again, against a
/// list of who brought which into being.
#[test]
fn the_connections_of_an_address_share_a_bound_and_get_it_back() {
    // The first four share a /64; one address of IPv4 is there in both spellings.
    let blocks = ["2001:db8::1", "2001:db8::2", "2001:db8::3:1", "2001:db8::4"]
        .into_iter()
        .chain(["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8:0:1::1"])
        .map(block)
        .collect::<Vec<_>>();
    let mut refused = 0;
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let mut channels = channels(3, 1_000);
        channels.settings.per_connection_max = 5;
        channels.settings.per_address_max = Some(8);
        let mut model: HashMap<u64, u32> = HashMap::new();
        for _ in 0..2_000 {
            let (which, slot) = (rng.below(40), rng.below(8) as u32);
            let name = ChannelName::new(&format!("c{which}"));
            let block = blocks[slot as usize];
            if rng.below(3) == 0 {
                if let Some(key) = channels.find(&name) {
                    drop(channels.delete(key));
                }
                model.remove(&which);
                continue;
            }
            let of_conn = model.values().filter(|&&one| one == slot).count();
            let of_block = model.values().filter(|&&one| blocks[one as usize] == block).count();
            let found = channels.find_or_new(&name, Some(from(slot, Some(block))));
            let want = match () {
                () if model.contains_key(&which) => None,
                () if of_conn >= 5 => Some(TooMany::OfConnection),
                () if of_block >= 8 => Some(TooMany::OfAddress),
                () => None,
            };
            assert_eq!(found.err(), want, "seed {seed}");
            refused += usize::from(want == Some(TooMany::OfAddress));
            if want.is_none() {
                model.entry(which).or_insert(slot);
            }
        }
        channels.sweep(1);
        assert!(channels.created.is_empty() && channels.created_from.is_empty());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_user_is_in_a_room_once() {
    let mut channels = channels(8, 1_000);
    let key = channels.find_or_new(&ChannelName::of_room("r"), None).expect("room");
    let room = channels.get_mut(key);
    let person = |id: &str| Person { user_id: UserId::new(id), username: id.into() };
    assert!(room.enter(&person("b")) && room.enter(&person("a")) && !room.enter(&person("b")));
    let names: Vec<String> = room.users().iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(names, ["b", "a"]);
    assert!(!room.exit(&UserId::new("b")) && room.exit(&UserId::new("b")));
    assert!(!room.exit(&UserId::new("nobody")));
    assert_eq!(room.user_count(), 1);
}
