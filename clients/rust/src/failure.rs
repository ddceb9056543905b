//! The error of a call, and the reaction to it (docs/reference/errors.md).

use std::collections::BTreeMap;
use std::error::{self, Error as _};
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetail, StatusExt};

use crate::pb::WatchFailure;
use crate::rules::SILENT;

/// The domain of the gateway's `ErrorInfo`.
const DOMAIN: &str = "jobgateway";

/// The reaction of a client to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Make the call again.
    Retry,
    /// Change the request, or the configuration.
    Fix,
    /// Get another token.
    LogIn,
    /// Look in the VIKTOR app whether there is a job before you send it again.
    Look,
    /// Do nothing: the same call would fail again.
    GiveUp,
}

/// The reason why a call or a watch failed permanently.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The status of a call, or a damaged result (`Code::DataLoss`).
    #[error(transparent)]
    Call(#[from] Failure),
    /// The login failed, or returned a token that no header can carry.
    #[error("login: {0}")]
    Login(#[source] Arc<dyn error::Error + Send + Sync>),
}

/// The error of a call, with its details. It never contains the token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[error("{message} [{code:?}{}{reason}]", if reason.is_empty() { "" } else { ", " })]
pub struct Failure {
    /// The code of gRPC.
    pub code: Code,
    /// A one-line message, with the causes that tonic knows.
    pub message: String,
    /// From `ErrorInfo`; empty if the error does not come from the gateway.
    pub reason: String,
    /// From `ErrorInfo`, or the `uid` of a damaged result.
    pub metadata: BTreeMap<String, String>,
    /// From `RetryInfo`.
    pub retry_after: Option<Duration>,
    /// From `BadRequest`: each invalid field, and its problem. A field may have several.
    pub fields: Box<[(String, String)]>,
    /// The last failure before the timeout of a `wait` passed.
    #[source]
    pub cause: Option<Box<Failure>>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut failure = Self::new(code(&status), &message(&status));
        for detail in status.get_error_details_vec() {
            match detail {
                // A proxy may add an `ErrorInfo` of another domain.
                ErrorDetail::ErrorInfo(info) if info.domain == DOMAIN => {
                    failure.reason = info.reason;
                    failure.metadata.extend(info.metadata);
                }
                ErrorDetail::RetryInfo(info) => failure.retry_after = info.retry_delay,
                ErrorDetail::BadRequest(bad) => {
                    let fields = bad.field_violations.into_iter();
                    failure.fields = fields.map(|each| (each.field, each.description)).collect();
                }
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

/// Returns the message, and the causes that it does not contain: tonic often says only "transport error".
fn message(status: &Status) -> String {
    let causes = iter::successors(status.source(), |&error| error.source());
    causes.fold(status.message().to_owned(), |message, cause| {
        let cause = cause.to_string();
        match message.contains(&cause) {
            true => message,
            false => format!("{message}: {cause}"),
        }
    })
}

fn is_timeout(error: &(dyn error::Error + 'static)) -> bool {
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
            fields: Box::default(),
            cause: None,
        }
    }

    /// Returns the job that an error of the gateway is about.
    pub fn uid(&self) -> Option<i64> {
        self.metadata.get("uid")?.parse().ok()
    }

    /// Returns whether a failed submission may be repeated: the gateway guarantees that no job was created, or its
    /// `request_id` prevents a second one.
    pub(crate) fn may_send_again(&self, has_id: bool) -> bool {
        let nothing_sent = !self.reason.is_empty()
            && matches!(self.code, Code::Unavailable | Code::ResourceExhausted);
        self.action() == Action::Retry && self.uid().is_none() && (nothing_sent || has_id)
    }

    /// Returns whether the connection may be dead, or lead to an instance that shuts down.
    pub(crate) fn wants_new_connection(&self) -> bool {
        matches!(self.reason.as_str(), "" | SILENT | "DRAINING")
    }

    /// Returns the reaction to the error: by the reason if the code alone would be misleading, otherwise by the code.
    ///
    /// Retry a submission only if it has a `request_id`. Without one, `Retry` of an error without a reason means `Look`.
    pub fn action(&self) -> Action {
        match self.reason.as_str() {
            "UPSTREAM_NOT_READY" | "UPSTREAM_ERROR" => return Action::Retry,
            "UPSTREAM_ANSWER_TOO_LARGE" => return Action::GiveUp,
            // From a proxy, or the gateway died: another call may work.
            "" if matches!(self.code, Code::Internal | Code::Unknown | Code::Ok) => {
                return Action::Retry;
            }
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

#[cfg(test)]
mod tests;
