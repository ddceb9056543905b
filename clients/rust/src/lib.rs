//! A client of the Job Gateway. It sends jobs, and watches them over broken connections until they end.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jobgateway_client::{Client, Hooks, pb::SendJobRequest};
//!
//! let client = Client::new("http://127.0.0.1:50051", "demo-token")?;
//! let request = SendJobRequest::new("1", 7, "succeed", r#"{"duration": 1}"#);
//! let end = client.run(request, Hooks::default()).finish().await?;
//! println!("{} {}", end.job.status().as_str_name(), String::from_utf8_lossy(&end.result));
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod calls;
mod client;
mod events;
mod failure;
#[cfg(test)]
mod fake;
mod hooks;
mod many;
mod many_rules;
mod requests;
mod result;
mod rules;
mod tls;
mod token;
mod values;
mod watch;

pub use client::{BuildError, Client, ClientBuilder};
pub use events::Events;
pub use failure::{Action, Error, Failure};
pub use hooks::Hooks;
pub use many::{Item, WatchAll};
pub use rules::{Retry, SILENT};
pub use tls::tls_from_files;
pub use token::TokenError;
pub use tonic::Code;
pub use tonic::transport::ClientTlsConfig;
pub use values::{json_from_struct, struct_from_json};
pub use watch::{Finished, Watch};

/// The well-known types of protobuf, which the messages of the contract use.
pub use prost_types;

/// The messages of the contract.
pub mod pb {
    #![allow(clippy::all, missing_docs, rustdoc::all)]
    include!("../gen/jobgateway.v1.rs");
}
