//! What an error of a call says, and what to do about it (docs/reference/errors.md).

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetail, StatusExt};

/// That of the gateway's own `ErrorInfo`.
const DOMAIN: &str = "jobgateway";

/// What a client does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    Retry,
    Mend,
    #[serde(rename = "login")]
    LogIn,
    Look,
    GiveUp,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code:?} {reason}: {message}")]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// That of `ErrorInfo`; empty if the error is not the gateway's.
    pub reason: String,
    /// That of `RetryInfo`; none where no wait is known.
    pub retry_after: Option<Duration>,
    /// What is wrong with each field at fault.
    pub fields: BTreeMap<String, String>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut failure = Self {
            code: code(&status),
            message: status.message().to_owned(),
            reason: String::new(),
            retry_after: None,
            fields: BTreeMap::new(),
        };
        for detail in status.get_error_details_vec() {
            match detail {
                // A proxy may add one of its own.
                ErrorDetail::ErrorInfo(info) if info.domain == DOMAIN => {
                    failure.reason = info.reason;
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

/// The code that gRPC prescribes. A status that tonic made of an error of the transport has that as its source, and often
/// another code: a connection that breaks in a stream is UNKNOWN, and a deadline that is over CANCELLED.
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
    /// Decides by the reason if its code would say otherwise, else by the code, also that of a reason not known.
    ///
    /// `Retry` of a submission is safe only with a `request_id`: without one, `Retry` of an error without a reason
    /// means `Look`.
    pub fn remedy(&self) -> Remedy {
        match self.reason.as_str() {
            "UPSTREAM_NOT_READY" | "UPSTREAM_ERROR" => return Remedy::Retry,
            "UPSTREAM_ANSWER_TOO_LARGE" => return Remedy::GiveUp,
            // A proxy said it, or the gateway died: another call may work.
            "" if matches!(self.code, Code::Internal | Code::Unknown) => return Remedy::Retry,
            _ => {}
        }
        match self.code {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Remedy::Retry,
            Code::ResourceExhausted if self.retry_after.is_some() => Remedy::Retry,
            Code::ResourceExhausted | Code::InvalidArgument | Code::NotFound => Remedy::Mend,
            // tonic's own, for a message over the receive limit, which others call RESOURCE_EXHAUSTED.
            Code::OutOfRange => Remedy::Mend,
            Code::Unauthenticated => Remedy::LogIn,
            Code::Unknown => Remedy::Look,
            _ => Remedy::GiveUp,
        }
    }
}
