//! atoll-proto
