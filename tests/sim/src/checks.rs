//! The guarantees of the design, looked at from outside: what the store holds, what the machines
//! run, what the edge routes.
//!
//! Promises with a bound are measured in virtual time from when they began to be broken, or from
//! the last fault that touched what keeps them, whichever is later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::{Generation, SandboxId, TeamId};
use atoll_core::quota::Charge;
use atoll_core::resources::Resources;
use atoll_core::sandbox::{Desired, Sandbox, State};
use atoll_store::store::{EventFilter, Store as _};
use tokio::time::Instant;

use crate::book::{CHANGES, Entry};
use crate::link::Cable;
use crate::machine::{MachineCopy, is_kept, is_serving};
use crate::server::{Server, TEAM_MAX};
use crate::store::Database;
use crate::world::{Part, World};

/// How long store and nodes may disagree: the design's bound, and the time to ask and to act.
const AGREE_WITHIN: Duration = Duration::from_secs(35);

/// How long a sandbox may be on its way to anything: a start that is asked for until it is given
/// up, and the time to agree.
const SETTLE_WITHIN: Duration = Duration::from_secs(100);

/// How late a deadline may be noticed, besides what the store takes.
const EXPIRE_WITHIN: Duration = Duration::from_secs(2);

/// How long the edge of one of several servers may have the route of an earlier placement, which
/// the node refuses.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// How long what had to wait for a part may take to try again once that works: the longest pause
/// between attempts, and the attempt.
const TRY_AGAIN_WITHIN: Duration = Duration::from_secs(6);

/// More live rows, or events of one sandbox, than any run has.
const EVERYTHING: u32 = 100_000;

/// Something that must not go on for longer than its bound.
struct Concern {
    what: String,
    parts: Vec<Part>,
    bound: Duration,
}

type Copies = BTreeMap<(usize, SandboxId, Generation), MachineCopy>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Checks {
    world: Arc<World>,
    database: Arc<Database>,
    cables: Vec<Arc<Cable>>,
    teams: Vec<TeamId>,
    since: BTreeMap<String, Instant>,
}

impl Checks {
    pub(crate) const fn new(
        world: Arc<World>,
        database: Arc<Database>,
        cables: Vec<Arc<Cable>>,
        teams: Vec<TeamId>,
    ) -> Self {
        Self {
            world,
            database,
            cables,
            teams,
            since: BTreeMap::new(),
        }
    }

    /// Every row that has not ended.
    pub(crate) async fn rows(&self) -> Vec<Sandbox> {
        let rows = self.database.tables.sandbox_list_live(None, EVERYTHING);
        rows.await.unwrap_or_default()
    }

    /// Looks at everything that must hold now.
    pub(crate) async fn look(&mut self, servers: &[Arc<Server>]) {
        let rows = self.rows().await;
        let copies = self.copies();
        self.judge_load(&copies);
        self.judge_quota(&rows).await;
        let mut concerns = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let astray = self.judge_routes(server, &rows, &copies);
            if servers.len() == 1 {
                astray.iter().for_each(|what| self.world.violate(what));
                continue;
            }
            concerns.extend(astray.into_iter().map(|what| Concern {
                what: format!("at server {index} {what}"),
                parts: vec![Part::Server, Part::Store],
                bound: FOLLOW_WITHIN,
            }));
        }
        concerns.extend(rows.iter().filter_map(|row| self.concern(row, &copies)));
        concerns.extend(self.strangers(&rows, &copies));
        self.weigh(concerns);
    }

    fn copies(&self) -> Copies {
        let mut copies = BTreeMap::new();
        for (index, cable) in self.cables.iter().enumerate() {
            for (id, generation, copy) in cable.machine.copies() {
                copies.insert((index, id, generation), copy);
            }
        }
        copies
    }

    /// A node is never loaded beyond its policy.
    fn judge_load(&self, copies: &Copies) {
        for (index, cable) in self.cables.iter().enumerate() {
            let on_it = copies.iter().filter(|((node, _, _), _)| *node == index);
            let load = sum(on_it.map(|(_, copy)| copy.resources));
            if !load.fits_in(cable.machine.total()) {
                let node = cable.machine.id();
                self.world
                    .violate(format_args!("{node} is loaded with {load:?}"));
            }
        }
    }

    /// A team never has more than its quota, and what is counted is what there is.
    async fn judge_quota(&self, rows: &[Sandbox]) {
        for team in &self.teams {
            let of_team = rows.iter().filter(|row| row.team == *team);
            let charged = of_team.fold(Charge::default(), |sum, row| {
                sum.saturating_add(row.charge_in(row.state))
            });
            if charged.places > u64::from(TEAM_MAX) {
                let places = charged.places;
                self.world
                    .violate(format_args!("{team} has {places} sandboxes"));
            }
            let usage = self.database.tables.team_usage(team).await;
            let known = usage.map_or_else(|_| Charge::default(), |usage| usage.charged);
            if known != charged {
                self.world
                    .violate(format_args!("{team} takes {charged:?}, counted {known:?}"));
            }
        }
    }

    /// No sandbox has two routable copies, and a route leads to the placement it names; answers
    /// those that do not.
    fn judge_routes(&self, server: &Server, rows: &[Sandbox], copies: &Copies) -> Vec<String> {
        let mut astray = Vec::new();
        for row in rows {
            let Some(route) = server.edge.route(&row.id) else {
                continue;
            };
            let reached: Vec<_> = copies
                .iter()
                .filter(|((node, id, _), copy)| {
                    *id == row.id
                        && *self.cables[*node].machine.id() == route.node
                        && is_serving(copy)
                })
                .map(|((_, _, generation), _)| *generation)
                .collect();
            if reached.len() > 1 {
                self.world.violate(format_args!(
                    "{} has the routable copies {reached:?} on {}",
                    row.id, route.node
                ));
            }
            if let [generation] = reached[..]
                && generation != route.generation
            {
                astray.push(format!(
                    "the route to generation {} of {} leads to {generation}",
                    route.generation, row.id
                ));
            }
        }
        astray
    }

    fn parts(&self, row: &Sandbox) -> Vec<Part> {
        let mut parts = vec![Part::Server, Part::Store];
        parts.extend(row.node.clone().map(Part::Node));
        parts
    }

    /// What about a row must not last.
    fn concern(&self, row: &Sandbox, copies: &Copies) -> Option<Concern> {
        let (id, generation) = (&row.id, row.generation);
        let parts = self.parts(row);
        if row.desired == Desired::Stopped || matches!(row.state, State::Stopping | State::Error) {
            return Some(Concern {
                what: format!("{id} does not end"),
                parts,
                bound: AGREE_WITHIN,
            });
        }
        let settle = |what: String| Concern {
            what,
            parts: parts.clone(),
            bound: SETTLE_WITHIN,
        };
        match row.state {
            State::Running if self.copy_of(row, copies, is_serving).is_none() => Some(Concern {
                what: format!("{id} g{generation} should run and does not"),
                parts,
                bound: AGREE_WITHIN,
            }),
            State::Paused if self.copy_of(row, copies, is_kept).is_none() => Some(Concern {
                what: format!("{id} g{generation} should be kept and is not"),
                parts,
                bound: AGREE_WITHIN,
            }),
            State::Running if row.desired == Desired::Paused || row.is_restarting => {
                Some(settle(format!("{id} runs on")))
            }
            State::Paused if row.desired == Desired::Running => {
                Some(settle(format!("{id} stays paused")))
            }
            State::Running if row.deadline <= self.world.wall_time() => Some(Concern {
                what: format!("the deadline of {id} passed"),
                parts: [parts, vec![Part::WallClock]].concat(),
                bound: EXPIRE_WITHIN,
            }),
            State::Pending | State::Creating | State::Pausing | State::Resuming => {
                Some(settle(format!("{id} stays {:?}", row.state)))
            }
            State::Running | State::Paused | State::Stopping | State::Stopped | State::Error => {
                None
            }
        }
    }

    /// The copy of the row's placement that is as it should be; a paused one may still have the
    /// generation that it was paused under.
    fn copy_of<'a>(
        &self,
        row: &Sandbox,
        copies: &'a Copies,
        is_right: impl Fn(&MachineCopy) -> bool,
    ) -> Option<&'a MachineCopy> {
        copies
            .iter()
            .find(|((node, id, generation), copy)| {
                *id == row.id
                    && row.is_own_generation(*generation)
                    && Some(self.cables[*node].machine.id()) == row.node.as_ref()
                    && is_right(copy)
            })
            .map(|(_, copy)| copy)
    }

    /// Copies that no row wants.
    fn strangers(&self, rows: &[Sandbox], copies: &Copies) -> Vec<Concern> {
        let wanted: BTreeMap<_, _> = rows.iter().map(|row| (&row.id, row)).collect();
        let mut concerns = Vec::new();
        for (node, id, generation) in copies.keys() {
            let node = self.cables[*node].machine.id();
            let is_wanted = wanted.get(id).is_some_and(|row| {
                row.node.as_ref() == Some(node) && row.is_own_generation(*generation)
            });
            if is_wanted {
                continue;
            }
            concerns.push(Concern {
                what: format!("{node} has {id} g{generation}, which nobody wants"),
                parts: vec![Part::Server, Part::Store, Part::Node(node.clone())],
                bound: AGREE_WITHIN,
            });
        }
        concerns
    }

    fn weigh(&mut self, concerns: Vec<Concern>) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.since);
        for concern in concerns {
            let since = before.get(&concern.what).copied().unwrap_or(now);
            let counted = match self.world.last_disturbed(&concern.parts) {
                Some(last) => since.max(last + TRY_AGAIN_WITHIN),
                None => since,
            };
            if now.saturating_duration_since(counted) > concern.bound {
                self.world
                    .violate(format_args!("{} ({:?})", concern.what, concern.bound));
            }
            self.since.insert(concern.what, since);
        }
    }

    /// Why not everything is at rest and equal on all sides; none if it is.
    pub(crate) async fn unrest(&self, server: &Server) -> Option<String> {
        let rows = self.rows().await;
        let copies = self.copies();
        let mut running = 0;
        for row in &rows {
            let is_there = match (row.state, row.desired) {
                (State::Running, Desired::Running) => {
                    running += 1;
                    let route = server.edge.route(&row.id);
                    if route.is_none_or(|route| route.generation != row.generation) {
                        return Some(format!("{} has no route", row.id));
                    }
                    self.copy_of(row, &copies, is_serving).is_some()
                }
                (State::Paused, Desired::Paused) => self.copy_of(row, &copies, is_kept).is_some(),
                _ => return Some(format!("{} is {:?}", row.id, row.state)),
            };
            if !is_there {
                return Some(format!("{} is nowhere", row.id));
            }
        }
        if copies.len() != rows.len() || server.edge.len() != running {
            return Some(format!(
                "{} rows, {} copies, {} routes",
                rows.len(),
                copies.len(),
                server.edge.len()
            ));
        }
        for view in server.control.node_list() {
            let on_it = rows
                .iter()
                .filter(|row| row.node.as_ref() == Some(&view.id));
            let allocated = sum(on_it.map(Sandbox::held));
            if view.allocated != allocated || !view.is_reachable {
                return Some(format!("{view:?}, rows {allocated:?}"));
            }
        }
        None
    }

    /// Every change of every sandbox is in its history, once and in order, and every idempotency
    /// key made one sandbox that served; those that came to nothing do not count.
    pub(crate) async fn judge_history(&self) {
        let entries = self.database.book.entries();
        let mut by_key = BTreeMap::new();
        for (id, entry) in &entries {
            self.judge_events(id, entry).await;
            let has_served = entry.events.contains(&EventKind::SandboxRunning.as_str());
            let key = entry.key.as_ref().filter(|_| has_served);
            let key = key.map(|key| (&entry.team, key));
            if let Some(key) = key
                && let Some(first) = by_key.insert(key, id)
            {
                self.world
                    .violate(format_args!("{} made {first} and {id}", key.1));
            }
        }
    }

    async fn judge_events(&self, id: &SandboxId, entry: &Entry) {
        let filter = EventFilter {
            subject: Subject::Sandbox(id.clone()),
            start: None,
            is_ascending: true,
            levels: Vec::new(),
            search: None,
            limit: EVERYTHING,
        };
        let events = self.database.tables.event_list(&filter).await;
        let mut events = events.unwrap_or_default();
        // Listed by time: that of a request which may have waited for the store since, or that of
        // a clock that jumped. They were told in the order of their cursors.
        events.sort_by_key(|event| event.cursor);
        let told: Vec<_> = events
            .iter()
            .map(|event| event.event.kind.as_str())
            .filter(|kind| CHANGES.contains(kind))
            .collect();
        let due = &entry.events;
        if told != *due {
            self.world
                .violate(format_args!("the history of {id} is {told:?}, not {due:?}"));
        }
    }
}

fn sum(of: impl Iterator<Item = Resources>) -> Resources {
    of.fold(Resources::default(), |sum, one| {
        sum.checked_add(one).unwrap_or(sum)
    })
}
