//! How control tells the edges where traffic goes.

use atoll_core::route::RouteUpdate;

/// Takes route changes. Must not block: it is called on the path of create and delete.
///
/// Updates carry a generation, so a late one cannot undo a newer one.
pub trait RoutePublisher: Send + Sync + std::fmt::Debug {
    /// Applies one change.
    fn publish(&self, update: RouteUpdate);
}
