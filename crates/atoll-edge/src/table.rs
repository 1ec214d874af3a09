//! The route table: which sandboxes are reachable, and where.
//!
//! Updates carry the generation of the placement they speak of. The table keeps the newest one for
//! each sandbox, and remembers for a while the generation at which a route was withdrawn, so that
//! an update that was overtaken on its way cannot bring an old placement back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use atoll_core::id::{Generation, SandboxId};
use atoll_core::route::{Route, RouteUpdate};
use tokio_util::sync::CancellationToken;

/// How many withdrawn generations are remembered. An update is overtaken by seconds at most, so
/// the number only has to exceed what a control plane withdraws in that time.
pub const MAX_REMEMBERED_WITHDRAWALS: usize = 8192;

/// A route in use, with the signal that it ended.
#[derive(Debug, Clone)]
pub struct LiveRoute {
    /// Where the sandbox runs.
    pub route: Arc<Route>,
    /// Cancelled when this route is withdrawn or replaced by a newer generation.
    pub ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Inner {
    routes: HashMap<SandboxId, LiveRoute>,
    withdrawn: HashMap<SandboxId, Generation>,
    withdrawn_order: VecDeque<SandboxId>,
}

/// All routes this edge knows. Cheap to clone; clones share the routes.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    inner: Arc<RwLock<Inner>>,
}

impl RouteTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over one change. Returns whether it was applied; an update of an older generation
    /// than the table knows is not.
    pub fn apply(&self, update: RouteUpdate) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match update {
            RouteUpdate::Publish(route) => inner.publish(route),
            RouteUpdate::Withdraw(id, generation) => inner.withdraw(id, generation),
        }
    }

    /// The route of a sandbox, if it is reachable.
    #[must_use]
    pub fn get(&self, id: &SandboxId) -> Option<LiveRoute> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.routes.get(id).cloned()
    }

    /// How many sandboxes are reachable.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.routes.len()
    }

    /// Whether no sandbox is reachable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn publish(&mut self, route: Route) -> bool {
        let known = self.routes.get(&route.sandbox);
        let newest = known
            .map(|live| live.route.generation)
            .max(self.withdrawn.get(&route.sandbox).copied());
        if newest.is_some_and(|newest| newest > route.generation) {
            return false;
        }
        // The same placement may be published again with another policy: what streams goes on.
        let ended = match known {
            Some(live) if live.route.generation == route.generation => live.ended.clone(),
            Some(live) => {
                live.ended.cancel();
                CancellationToken::new()
            }
            None => CancellationToken::new(),
        };
        let id = route.sandbox.clone();
        let route = Arc::new(route);
        self.routes.insert(id, LiveRoute { route, ended });
        true
    }

    fn withdraw(&mut self, id: SandboxId, generation: Generation) -> bool {
        if let Some(live) = self.routes.get(&id) {
            if live.route.generation > generation {
                return false;
            }
            live.ended.cancel();
            self.routes.remove(&id);
        }
        self.remember(id, generation);
        true
    }

    fn remember(&mut self, id: SandboxId, generation: Generation) {
        match self.withdrawn.get_mut(&id) {
            Some(known) => *known = generation.max(*known),
            None => {
                if self.withdrawn_order.len() >= MAX_REMEMBERED_WITHDRAWALS
                    && let Some(oldest) = self.withdrawn_order.pop_front()
                {
                    self.withdrawn.remove(&oldest);
                }
                self.withdrawn_order.push_back(id.clone());
                self.withdrawn.insert(id, generation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(id: &str, generation: u64) -> Route {
        Route {
            sandbox: id.parse().unwrap(),
            node: "node-1".parse().unwrap(),
            generation: Generation::new(generation),
            traffic_token: None,
            mask_request_host: None,
        }
    }

    #[test]
    fn newest_generation_wins_whatever_the_order() {
        let table = RouteTable::new();
        let id: SandboxId = "isbx".parse().unwrap();
        assert!(table.apply(RouteUpdate::Publish(route("isbx", 2))));
        assert!(!table.apply(RouteUpdate::Publish(route("isbx", 1))));
        assert!(!table.apply(RouteUpdate::Withdraw(id.clone(), Generation::new(1))));
        assert_eq!(table.get(&id).unwrap().route.generation, Generation::new(2));

        assert!(table.apply(RouteUpdate::Withdraw(id.clone(), Generation::new(2))));
        assert!(table.get(&id).is_none());
        assert!(
            !table.apply(RouteUpdate::Publish(route("isbx", 1))),
            "an overtaken publication must not bring an old placement back"
        );
        // The same placement may become reachable again: a pause that failed.
        assert!(table.apply(RouteUpdate::Publish(route("isbx", 2))));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn streams_end_with_their_placement_only() {
        let table = RouteTable::new();
        let id: SandboxId = "isbx".parse().unwrap();
        table.apply(RouteUpdate::Publish(route("isbx", 1)));
        let first = table.get(&id).unwrap();
        table.apply(RouteUpdate::Publish(route("isbx", 1)));
        assert!(!first.ended.is_cancelled(), "same placement");
        table.apply(RouteUpdate::Publish(route("isbx", 2)));
        assert!(first.ended.is_cancelled(), "replaced");
        let second = table.get(&id).unwrap();
        table.apply(RouteUpdate::Withdraw(id, Generation::new(2)));
        assert!(second.ended.is_cancelled(), "withdrawn");
    }

    #[test]
    fn memory_of_withdrawals_is_bounded() {
        let table = RouteTable::new();
        for n in 0..MAX_REMEMBERED_WITHDRAWALS + 10 {
            let id = format!("i{n}").parse().unwrap();
            table.apply(RouteUpdate::Withdraw(id, Generation::FIRST));
        }
        let inner = table.inner.read().unwrap();
        assert_eq!(inner.withdrawn.len(), MAX_REMEMBERED_WITHDRAWALS);
        assert_eq!(inner.withdrawn_order.len(), MAX_REMEMBERED_WITHDRAWALS);
    }
}
