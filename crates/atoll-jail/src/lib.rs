//! atoll-jail
