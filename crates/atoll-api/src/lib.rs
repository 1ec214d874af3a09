//! The control API: the E2B surface under `/`, the operators' surface under `/admin/v1`, and the
//! orchestrator's service over gRPC, gRPC-Web and Connect.
//!
//! This is the only crate that knows REST and JSON. It turns requests into the use cases of
//! [`atoll_control::ControlPlane`] and their outcomes into answers, and decides nothing else:
//!
//! ```text
//!  request ─▶ guard (id, time, concurrency, log) ─▶ auth ─▶ query, body ─▶ use case ─▶ dto
//! ```
//!
//! Invariants:
//! - Every error, also one of routing or of a middleware, has the body `{"code": <HTTP status>,
//!   "message", "error_code"?}`; one of an RPC has the form of its protocol.
//! - Nothing is read of a request's body before its sender is known.
//! - What is not served says so with 501; nothing is accepted and then ignored.
//! - `spec/openapi.yml` and `spec/openapi-admin.yml` name exactly the operations of
//!   [`rest::operations`]; a test compares them.
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
mod body;
mod check;
mod dto;
pub mod error;
mod guard;
mod lifecycle;
pub mod limit;
pub mod metrics;
mod network;
mod query;
pub mod rest;
mod rpc;
pub mod scheduling;
mod time;
pub mod webhook;
