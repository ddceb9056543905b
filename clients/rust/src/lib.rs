//! A client of the Job Gateway: a connection, the reaction to each error, and watches that resume.

pub mod connection;
pub mod failure;
pub mod many;
mod many_rules;
pub mod result;
pub mod rules;
pub mod values;
pub mod watch;

/// The types of the contract, generated from `proto/` by `build.rs`.
pub mod pb {
    #![allow(clippy::all)]
    tonic::include_proto!("jobgateway.v1");
}
