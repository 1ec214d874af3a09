//! atoll-node
