//! A client of the Job Gateway: a connection, the reaction to each error, and a watch that resumes.

pub mod connection;
pub mod failure;
pub mod values;
pub mod watch;

/// The types of the contract, generated from `proto/` by `build.rs`.
pub mod pb {
    #![allow(clippy::all)]
    tonic::include_proto!("jobgateway.v1");
}
