//! The store's interface.

/// Durable state of the control plane.
pub trait Store: Send + Sync + std::fmt::Debug {}
