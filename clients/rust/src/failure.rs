//! The error of a call, and the reaction to it (docs/reference/errors.md).

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetail, StatusExt};

use crate::pb::WatchFailure;

/// The domain of the gateway's `ErrorInfo`.
const DOMAIN: &str = "jobgateway";

/// The reaction of a client to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Retry,
    Fix,
    #[serde(rename = "login")]
    LogIn,
    Look,
    GiveUp,
}

/// The error of a call, with its details.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code:?} {reason}: {message}")]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// From `ErrorInfo`; empty if the error does not come from the gateway.
    pub reason: String,
    /// From `ErrorInfo`.
    pub metadata: BTreeMap<String, String>,
    /// From `RetryInfo`.
    pub retry_after: Option<Duration>,
    /// From `BadRequest`: invalid field to description.
    pub fields: BTreeMap<String, String>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut failure = Self::new(code(&status), status.message());
        for detail in status.get_error_details_vec() {
            match detail {
                // A proxy may add an `ErrorInfo` of another domain.
                ErrorDetail::ErrorInfo(info) if info.domain == DOMAIN => {
                    failure.reason = info.reason;
                    failure.metadata.extend(info.metadata);
                }
                ErrorDetail::RetryInfo(info) => failure.retry_after = info.retry_delay,
                ErrorDetail::BadRequest(bad) => failure.fields.extend(
                    bad.field_violations
                        .into_iter()
                        .map(|each| (each.field, each.description)),
                ),
                _ => {}
            }
        }
        failure
    }
}

impl From<WatchFailure> for Failure {
    fn from(failure: WatchFailure) -> Self {
        let delay = failure.retry_delay;
        Self {
            reason: failure.reason,
            metadata: failure.metadata.into_iter().collect(),
            retry_after: delay.and_then(|delay| delay.try_into().ok()),
            ..Self::new(Code::from_i32(failure.code), &failure.message)
        }
    }
}

/// Returns the code that gRPC specifies. For an error of the transport, tonic often uses another code: UNKNOWN if the
/// connection breaks, CANCELLED if the deadline expires. Such a status has the error as its source.
fn code(status: &Status) -> Code {
    match status.source() {
        None => status.code(),
        Some(source) if is_timeout(source) => Code::DeadlineExceeded,
        Some(_) => Code::Unavailable,
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimeoutExpired>() || error.source().is_some_and(is_timeout)
}

impl Failure {
    /// Creates a failure without details.
    pub(crate) fn new(code: Code, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
            reason: String::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
            fields: BTreeMap::new(),
        }
    }

    /// Returns the reaction to the error: by the reason if the code alone would be misleading, otherwise by the code.
    ///
    /// Retry a submission only if it has a `request_id`. Without one, `Retry` of an error without a reason means `Look`.
    pub fn action(&self) -> Action {
        match self.reason.as_str() {
            "UPSTREAM_NOT_READY" | "UPSTREAM_ERROR" => return Action::Retry,
            "UPSTREAM_ANSWER_TOO_LARGE" => return Action::GiveUp,
            // From a proxy, or the gateway died: another call may work.
            "" if matches!(self.code, Code::Internal | Code::Unknown) => return Action::Retry,
            _ => {}
        }
        match self.code {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Action::Retry,
            Code::ResourceExhausted if self.retry_after.is_some() => Action::Retry,
            Code::ResourceExhausted | Code::InvalidArgument | Code::NotFound => Action::Fix,
            Code::AlreadyExists => Action::Fix,
            // tonic uses this code for a message over the receive limit. Other libraries use RESOURCE_EXHAUSTED.
            Code::OutOfRange => Action::Fix,
            Code::Unauthenticated => Action::LogIn,
            Code::Unknown => Action::Look,
            _ => Action::GiveUp,
        }
    }
}
