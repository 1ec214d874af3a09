//! atoll-node
#![deny(unsafe_code)]

pub mod doctor;
pub mod image;
pub mod net;
