//! atoll-control
