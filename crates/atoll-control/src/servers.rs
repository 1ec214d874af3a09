//! The servers on one store, as this one sees them: who lives, who brings which sandbox where it
//! should be, and who does what only one may do.
//!
//! A server counts its beats in the store every [`BEAT_INTERVAL`]. The others watch the count by
//! their own clocks: a server whose count stands still for [`DEAD_AFTER`] is removed, if it still
//! does then, and what it held is free. So no clock is compared with another, and one that was only
//! paused is back with its next beat.
//!
//! Invariants:
//! - At most one server is on duty. It counts itself off duty once [`DUTY_MAX`] passed since it
//!   last knew, which is before anybody may have taken over; a process that was stopped meanwhile
//!   finds itself off duty when it goes on. What such a process had begun changes nothing it should
//!   not: every write names the state and generation that it was decided by, and so does every
//!   order.
//! - A sandbox on its way is brought there by the server that took the wish, and by the one on duty
//!   once that is dead. What is at rest belongs to the one on duty. Who does not hear its node and
//!   knows another who does passes it on.
//! - A server that is alone on its store is always on duty, and asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use atoll_core::event::EventKind;
use atoll_core::id::{NodeId, ServerId};
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_store::store::Result;
use atoll_store::store::lease::{Lease, ServerRow};
use tokio::time::Instant;

use crate::config::ServerConfig;
use crate::events;
use crate::lock::lock;
use crate::service::Inner;
use crate::view::ServerView;

/// How often a server says that it lives.
pub(crate) const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a server's beats may stand still before it counts as dead: two of them were lost then.
/// With the look that notices it, its work moves within 10 s.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(6);

/// How long a server counts itself on duty without knowing anew: so much less than [`DEAD_AFTER`]
/// that what it began in time is over when another takes over.
pub(crate) const DUTY_MAX: Duration = Duration::from_secs(4);

/// The lease of what only one server does.
pub(crate) const DUTIES: &str = "duties";

/// One of the others.
#[derive(Debug)]
struct Other {
    beats: u64,
    /// When they were seen to move.
    moved: Instant,
    silent: BTreeSet<NodeId>,
}

#[derive(Debug, Default)]
struct Seen {
    others: BTreeMap<ServerId, Other>,
    /// When this server asked and was told that it is on duty.
    on_duty: Option<Instant>,
    listed: Vec<ServerRow>,
    /// When this server looked last.
    looked: Option<Instant>,
    lease: Option<Lease>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Servers {
    /// This one; none: it is alone.
    own: Option<ServerRow>,
    seen: Mutex<Seen>,
}

impl Servers {
    /// `id` is drawn anew at each start.
    pub(crate) fn new(config: Option<&ServerConfig>, id: &str) -> Self {
        let own = config.map(|config| ServerRow {
            id: id.parse().expect("a UUID's text is a valid server id"),
            address: config.address.clone(),
            version: config.version.clone(),
            silent: Vec::new(),
            beats: 0,
        });
        Self {
            own,
            seen: Mutex::default(),
        }
    }

    /// Whether no other server uses the store.
    pub(crate) const fn is_alone(&self) -> bool {
        self.own.is_none()
    }

    /// Whether there are others now.
    pub(crate) fn has_others(&self) -> bool {
        !lock(&self.seen).others.is_empty()
    }

    /// How many servers there are, with this one.
    pub(crate) fn count(&self) -> u32 {
        let others = lock(&self.seen).others.len();
        u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// This server, where it is not alone.
    pub(crate) const fn own(&self) -> Option<&ServerRow> {
        self.own.as_ref()
    }

    /// What is written of who brings a sandbox where this server wishes it.
    pub(crate) fn claim(&self) -> Option<ServerId> {
        self.own.as_ref().map(|own| own.id.clone())
    }

    /// Whether this server does what only one may do.
    pub(crate) fn is_on_duty(&self) -> bool {
        let known = lock(&self.seen).on_duty;
        self.is_alone() || known.is_some_and(|since| since.elapsed() < DUTY_MAX)
    }

    /// Whether nobody hears a node, as far as the others said.
    pub(crate) fn is_unheard(&self, node: &NodeId) -> bool {
        let seen = lock(&self.seen);
        seen.others
            .values()
            .all(|other| other.silent.contains(node))
    }

    /// A server that hears a node, as far as it said.
    fn hearing(&self, node: &NodeId) -> Option<ServerId> {
        let seen = lock(&self.seen);
        let mut hearing = seen.others.iter();
        let found = hearing.find(|(_, other)| !other.silent.contains(node));
        found.map(|(id, _)| id.clone())
    }

    /// Takes over a list that was asked for at `asked`. Answers those whose beats stood still for
    /// too long, with their counts, and whether one that was there is no more.
    pub(crate) fn note_list(
        &self,
        listed: Vec<ServerRow>,
        asked: Instant,
    ) -> (Vec<(ServerId, u64)>, bool) {
        let Some(own) = &self.own else {
            return (Vec::new(), false);
        };
        let mut seen = lock(&self.seen);
        // Who could not look for long, as when the store was away, begins to watch anew: the others
        // could not beat either.
        let was_blind = seen
            .looked
            .is_some_and(|looked| asked.duration_since(looked) >= DUTY_MAX);
        let before: BTreeSet<_> = seen.others.keys().cloned().collect();
        let mut others = BTreeMap::new();
        for row in listed.iter().filter(|row| row.id != own.id) {
            let moved = match seen.others.get(&row.id) {
                Some(other) if other.beats == row.beats && !was_blind => other.moved,
                Some(_) | None => asked,
            };
            let other = Other {
                beats: row.beats,
                moved,
                silent: row.silent.iter().cloned().collect(),
            };
            others.insert(row.id.clone(), other);
        }
        let is_less = before.iter().any(|id| !others.contains_key(id));
        let dead = others
            .iter()
            .filter(|(_, other)| asked.duration_since(other.moved) >= DEAD_AFTER)
            .map(|(id, other)| (id.clone(), other.beats))
            .collect();
        seen.others = others;
        seen.listed = listed;
        seen.looked = Some(asked);
        (dead, is_less)
    }

    /// Forgets one that was removed.
    pub(crate) fn forget(&self, id: &ServerId) {
        let mut seen = lock(&self.seen);
        seen.others.remove(id);
        seen.listed.retain(|row| row.id != *id);
    }

    /// Takes over who holds the lease, asked for at `asked`.
    pub(crate) fn note_lease(&self, lease: Option<Lease>, asked: Instant) {
        let is_own = match (&self.own, &lease) {
            (Some(own), Some(lease)) => own.id == lease.holder,
            _ => false,
        };
        let mut seen = lock(&self.seen);
        seen.on_duty = is_own.then_some(asked);
        seen.lease = lease;
    }

    /// Whether the holder of a lease is among the servers.
    pub(crate) fn is_held(&self, lease: Option<&Lease>) -> bool {
        lease.is_some_and(|lease| self.is_known(&lease.holder))
    }

    fn is_known(&self, id: &ServerId) -> bool {
        let is_own = self.own.as_ref().is_some_and(|own| own.id == *id);
        is_own || lock(&self.seen).others.contains_key(id)
    }

    /// The servers for operators.
    pub(crate) fn view(&self) -> Vec<ServerView> {
        let seen = lock(&self.seen);
        let holder = seen.lease.as_ref().map(|lease| &lease.holder);
        let rows = seen.listed.iter();
        rows.map(|row| ServerView {
            id: row.id.clone(),
            address: row.address.clone(),
            version: row.version.clone(),
            is_on_duty: holder == Some(&row.id),
        })
        .collect()
    }
}

/// Whether somebody has to bring a sandbox somewhere.
pub(crate) fn is_turning(row: &Sandbox) -> bool {
    match (row.state, row.desired) {
        (State::Running, Desired::Running) => row.is_restarting,
        (State::Paused, Desired::Paused) | (State::Stopped, _) => false,
        _ => true,
    }
}

impl Inner {
    /// Whether it is this server that does what is to be done for a sandbox.
    pub(crate) async fn is_ours(&self, row: &Sandbox) -> bool {
        let servers = &self.servers;
        let Some(own) = servers.own() else {
            return true;
        };
        if !is_turning(row) {
            return servers.is_on_duty();
        }
        match &row.claimed_by {
            Some(by) if *by == own.id => true,
            Some(by) => servers.is_on_duty() && !self.lives(by).await,
            None => servers.is_on_duty(),
        }
    }

    /// Has another server bring a sandbox where it should be, whose node it hears and this one has
    /// not heard for long. Answers whether that was written; none: this one goes on.
    pub(crate) async fn pass_on(&self, row: &Sandbox) -> Option<Result<bool>> {
        if self.servers.is_alone() || !is_turning(row) {
            return None;
        }
        let node = row.node.as_ref()?;
        if !self.registry.is_silent(node) {
            return None;
        }
        let to = self.servers.hearing(node)?;
        let (at, kind) = (self.clock.now(), EventKind::Log);
        let text = format!("server {to} brings it on, which hears node {node}");
        let told = vec![events::event(row, at, kind, "debug", text)];
        Some(
            self.store
                .claim_pass(&row.id, row.revision, &to, told)
                .await,
        )
    }

    /// Whether a server lives. One that is not known may have come since the last look.
    async fn lives(&self, id: &ServerId) -> bool {
        if self.servers.is_known(id) {
            return true;
        }
        match self.store.server_list().await {
            Ok(listed) => listed.iter().any(|row| row.id == *id),
            Err(_) => true,
        }
    }

    /// Whether this server is on duty by what the store says now: asked before what cannot be
    /// taken back.
    pub(crate) async fn is_on_duty_still(&self) -> bool {
        let Some(own) = self.servers.own() else {
            return true;
        };
        if !self.servers.is_on_duty() {
            return false;
        }
        let lease = self.store.lease_get(DUTIES).await;
        matches!(lease, Ok(Some(lease)) if lease.holder == own.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, beats: u64) -> ServerRow {
        ServerRow {
            id: id.parse().unwrap(),
            address: String::new(),
            version: String::new(),
            silent: Vec::new(),
            beats,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_dead_and_who_moves_is_not() {
        let config = ServerConfig {
            address: String::new(),
            version: String::new(),
        };
        let servers = Servers::new(Some(&config), "own");
        let look = |rows: &[ServerRow]| servers.note_list(rows.to_vec(), Instant::now());
        assert_eq!(look(&[row("a", 5), row("own", 1)]), (vec![], false));
        for beats in [7, 8] {
            tokio::time::advance(BEAT_INTERVAL).await;
            assert_eq!(look(&[row("a", 5), row("b", beats)]), (vec![], false));
        }
        tokio::time::advance(BEAT_INTERVAL).await;
        let dead = vec![("a".parse().unwrap(), 5)];
        assert_eq!(look(&[row("a", 5), row("b", 9)]), (dead, false));
        // It came back under the same name and counts anew.
        assert_eq!(look(&[row("a", 1), row("b", 9)]), (vec![], false));
        assert_eq!(look(&[row("b", 9)]), (vec![], true));
        // The store was away for all of them: nobody is dead for that.
        tokio::time::advance(10 * DEAD_AFTER).await;
        assert_eq!(look(&[row("b", 9)]), (vec![], false));
    }

    #[tokio::test(start_paused = true)]
    async fn duty_ends_by_itself_before_another_takes_over() {
        let config = ServerConfig {
            address: String::new(),
            version: String::new(),
        };
        let servers = Servers::new(Some(&config), "own");
        assert!(!servers.is_on_duty());
        let lease = |holder: &str| {
            Some(Lease {
                holder: holder.parse().unwrap(),
                term: 1,
            })
        };
        servers.note_lease(lease("own"), Instant::now());
        assert!(servers.is_on_duty());
        tokio::time::advance(DUTY_MAX).await;
        assert!(!servers.is_on_duty());
        servers.note_lease(lease("a"), Instant::now());
        assert!(!servers.is_on_duty());
        assert!(Servers::new(None, "own").is_on_duty(), "it is alone");
    }
}
