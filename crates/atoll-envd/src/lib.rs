//! atoll-envd
