//! Gauges: what is true now, told when somebody looks.

use super::ControlPlane;
use crate::metrics;

impl ControlPlane {
    /// Sets the gauges of nodes and fleet to what is true now.
    pub fn observe(&self) {
        let (mut total, mut allocated, mut sandboxes) = ([0.0; 3], [0.0; 3], 0_u32);
        for node in self.inner.registry.view() {
            let name = node.id.as_str();
            metrics::node(name, node.is_reachable, node.total, node.allocated);
            metrics::breaker(name, node.breaker.0);
            sandboxes = sandboxes.saturating_add(node.sandboxes);
            if !node.is_reachable {
                continue;
            }
            for (sum, (_, amount)) in total.iter_mut().zip(metrics::amounts(node.total)) {
                *sum += amount;
            }
            for (sum, (_, amount)) in allocated.iter_mut().zip(metrics::amounts(node.allocated)) {
                *sum += amount;
            }
        }
        metrics::fleet(total, allocated, sandboxes);
        metrics::reserved(self.inner.registry.reservations());
    }
}
