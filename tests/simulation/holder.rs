//! Programs that keep a lease by heartbeats over HTTP, each at the node that it knows.
//!
//! They come to the very end of a lease, go to another node and return, or fall silent until it is over. So what
//! happens around the end of a lease, and between two nodes that both may renew it, happens all the time. There are
//! two instances of a service: too few for self-protection, which would hide that one has expired.

use std::collections::VecDeque;
use std::rc::Rc;

use fanfare::internals::id::InstanceIdentity;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::registry::commands::{Heartbeat, Register};
use fanfare::internals::state::registry::replies::RefusedEntry;
use fanfare::internals::wire::refusal::Refusal;

use super::oracle::Key;
use super::world::{Call, LEASE_MS, SimWorld, index, registration};

/// The services that they register in.
pub const SERVICES: [&str; 3] = ["pumps", "gates", "lamps"];
const PER_SERVICE: usize = 2;
/// Up to this the answer to a heartbeat is awaited. A later one is of no use to a program.
const ANSWER_MS: u64 = 400;

pub struct Holder {
    pub key: Key,
    is_registered: bool,
    /// The node that renewed its lease last.
    kept_by: Option<Rc<str>>,
    /// The place of the node that it knows.
    home: usize,
    /// What it will do: how long it waits, and at which node it then renews its lease.
    plan: VecDeque<(u64, usize)>,
    next_ms: u64,
}

impl Holder {
    /// All there are. Each is about to register.
    pub fn all() -> Vec<Holder> {
        let keys = SERVICES.iter().flat_map(|service| {
            (0..PER_SERVICE).map(|number| (String::from(*service), format!("p{number}")))
        });
        keys.map(|key| Holder {
            key,
            is_registered: false,
            kept_by: None,
            home: 0,
            plan: VecDeque::new(),
            next_ms: 0,
        })
        .collect()
    }

    fn make_plan(&mut self, nodes: usize, rng: &mut Rng) {
        let home = self.home % nodes;
        let pause_ms = match rng.below(10) {
            0..5 => 200 + rng.below(1_500),
            // Its end, give or take the time that a heartbeat and the expiry are on their way.
            5..8 => LEASE_MS - 300 + rng.below(1_200),
            8 => LEASE_MS + rng.below(4_000),
            _ => return self.visit(nodes, rng),
        };
        self.plan.push_back((pause_ms, home));
    }

    /// Goes to another node, is back soon, and then silent until the lease is over.
    fn visit(&mut self, nodes: usize, rng: &mut Rng) {
        let home = self.home % nodes;
        let other = (home + 1 + index(rng, nodes.max(2) - 1)) % nodes;
        self.plan = VecDeque::from([
            (100 + rng.below(200), other),
            (900 + rng.below(1_300), home),
            (LEASE_MS + 500 + rng.below(4_000), home),
        ]);
    }
}

impl SimWorld {
    /// Each program does what it is time for. In peace every second is silent for good.
    pub fn keep_leases(&mut self) {
        for at in 0..self.holders.len() {
            if self.holders[at].next_ms <= self.now_ms && (self.is_stormy || at % 2 == 1) {
                self.keep_lease(at);
            }
        }
    }

    fn keep_lease(&mut self, at: usize) {
        let (now_ms, nodes) = (self.now_ms, self.nodes.len());
        let (service, instance) = self.holders[at].key.clone();
        let node = match self.holders[at].plan.pop_front() {
            Some((_, node)) if self.is_stormy => node % nodes,
            _ => self.holders[at].home % nodes,
        };
        let reply = if self.holders[at].is_registered {
            let identity = InstanceIdentity::of("r", &service, &instance);
            self.nodes[node].ask(Heartbeat(vec![identity]), now_ms)
        } else {
            let body = self.instance(&service, &instance, LEASE_MS);
            self.nodes[node].ask(Register(vec![registration(body)]), now_ms)
        };
        let holder = &mut self.holders[at];
        if holder.plan.is_empty() {
            holder.make_plan(nodes, &mut self.rng);
        }
        let pause_ms = holder.plan.front().map_or(ANSWER_MS, |(pause_ms, _)| *pause_ms);
        holder.next_ms = now_ms + if self.is_stormy { pause_ms } else { LEASE_MS / 4 };
        let name = Rc::clone(&self.nodes[node].name);
        let call = reply.map(|reply| Call::Kept { holder: at, sent_ms: now_ms, reply });
        self.calls.extend(call.map(|call| (name, call)));
    }

    /// The node at `at` has answered a program.
    pub fn on_lease_kept(
        &mut self,
        at: usize,
        (holder, sent_ms): (usize, u64),
        result: &Result<Vec<RefusedEntry>, Refusal>,
    ) {
        let now_ms = self.now_ms;
        let is_awaited = now_ms - sent_ms <= ANSWER_MS;
        let key = self.holders[holder].key.clone();
        if matches!(result, Ok(refused) if refused.is_empty()) {
            self.count("leases renewed");
            if is_awaited {
                let shown = self.nodes[at].services.get(&*key.0).expect("it is renewed");
                self.oracle.keeps(key, LEASE_MS, shown);
            } else {
                self.oracle.renewed(key, LEASE_MS, sent_ms);
            }
        }
        let holder = &mut self.holders[holder];
        match result {
            _ if !is_awaited => {}
            Ok(refused) if refused.is_empty() => {
                holder.is_registered = true;
                holder.kept_by = Some(Rc::clone(&self.nodes[at].name));
            }
            Ok(_) => (holder.is_registered, holder.next_ms) = (false, now_ms),
            Err(_) => {
                (holder.home, holder.next_ms) = (at + 1, now_ms + 40);
                holder.plan.clear();
            }
        }
    }

    /// In peace whoever is silent is gone, and the others are there.
    pub fn judge_holders(&self) {
        for (at, holder) in self.holders.iter().enumerate() {
            let is_there = self.nodes[0].shows(&holder.key);
            assert_eq!(is_there, at % 2 == 1, "{:?} is there, or not", holder.key);
        }
    }

    /// A program visits another node, just as the one that it knows begins to read the log late.
    pub fn lead_astray(&mut self) {
        let at = index(&mut self.rng, self.holders.len());
        let (nodes, holder) = (self.nodes.len(), &mut self.holders[at]);
        let home = holder.home % nodes;
        // Both nodes are well: else they would refuse it.
        let is_well = self.nodes.iter().all(|node| self.sequencer.is_well(&node.name));
        if is_well && holder.kept_by.as_ref() == Some(&self.nodes[home].name) {
            holder.visit(nodes, &mut self.rng);
            holder.next_ms = self.now_ms + holder.plan[0].0;
            let ms = 1_800 + self.rng.below(1_500);
            self.delay(home, ms);
            self.count("programs led astray");
        }
    }
}
