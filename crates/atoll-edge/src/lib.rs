//! atoll-edge
