//! The edge in the server's process, with the real route table: empty when that process starts.

use std::sync::Arc;

use atoll_control::route_publisher::RoutePublisher;
use atoll_core::id::SandboxId;
use atoll_core::route::{Route, RouteUpdate};
use atoll_edge::table::RouteTable;

use crate::incarnation::Incarnation;
use crate::options::Sabotage;
use crate::world::World;

/// See the module.
#[derive(Debug)]
pub(crate) struct Edge {
    world: Arc<World>,
    incarnation: Arc<Incarnation>,
    table: RouteTable,
}

impl Edge {
    pub(crate) fn new(world: Arc<World>, incarnation: Arc<Incarnation>) -> Self {
        Self {
            world,
            incarnation,
            table: RouteTable::new(),
        }
    }

    /// Where the sandbox's traffic goes now.
    pub(crate) fn route(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.table.get(id).map(|live| live.route)
    }

    fn has_route_of(&self, update: &RouteUpdate) -> bool {
        let (RouteUpdate::Publish(Route { sandbox: id, .. }) | RouteUpdate::Withdraw(id, _)) =
            update;
        self.table.get(id).is_some()
    }

    /// How many routes there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

impl RoutePublisher for Edge {
    fn publish(&self, update: RouteUpdate) {
        if self.incarnation.is_dead() {
            return;
        }
        match &update {
            RouteUpdate::Publish(route) => self.world.note(format_args!(
                "route {} g{} to {}",
                route.sandbox, route.generation, route.node
            )),
            RouteUpdate::Withdraw(id, generation) => self
                .world
                .note(format_args!("route {id} g{generation} withdrawn")),
        }
        if self.world.has(Sabotage::KeepOldRoutes) && self.has_route_of(&update) {
            return;
        }
        self.table.apply(update);
    }
}
