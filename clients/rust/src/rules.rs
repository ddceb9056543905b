//! The decisions of the resuming watches (docs/clients/index.md). This module does no input or output.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, timeout};
use tonic::Code;

use crate::failure::Failure;
use crate::pb::{JobEvent, job_event::Payload};

const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);
/// The shortest silence that breaks a stream.
const MIN_SILENCE: Duration = Duration::from_secs(3);
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 86_400);
/// How long a stream may take to end after the last job has ended.
pub(crate) const END_SILENCE: Duration = Duration::from_secs(5);

/// The reason for a stream that was cancelled because no event arrived in time.
pub const SILENT: &str = "SILENT";

/// A further attempt after a failure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// The reason.
    pub failure: Failure,
    /// The job that `WatchAll` watches again on the same stream. `None` if the stream itself is resumed.
    pub uid: Option<i64>,
    /// The number of jobs that have not ended.
    pub jobs: usize,
    /// The time until the attempt.
    pub wait: Duration,
    /// A new connection replaces that of the failed attempt.
    pub new_connection: bool,
}

impl Retry {
    /// Creates a retry. A new connection does not wait for the backoff of the old one.
    pub(crate) fn new(failure: Failure, backoff: &mut Backoff) -> Self {
        Self {
            uid: None,
            jobs: 1,
            wait: backoff.next(&failure),
            new_connection: failure.wants_new_connection(),
            failure,
        }
    }
}

/// The waits between attempts: random, with a bound that doubles.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(INITIAL_BACKOFF)
    }
}

impl Backoff {
    /// Returns the next wait: between half the bound and the bound, or as long as the failure asks for, if that is longer.
    pub fn next(&mut self, failure: &Failure) -> Duration {
        let jittered = rand::random_range(self.0 / 2..self.0);
        self.0 = MAX_BACKOFF.min(2 * self.0);
        jittered.max(failure.retry_after.unwrap_or_default())
    }

    /// Resets the bound if an event arrives long enough after the start. An earlier one does not prove that the watch works:
    /// it may break after its first event each time.
    pub fn heard(&mut self, start: Instant, now: Instant) {
        if now - start > MAX_BACKOFF {
            *self = Self::default();
        }
    }
}

/// The resumption of a stream, over all its calls. A position changes with each event that has a resume token.
pub(crate) struct StreamRules<P> {
    pub opened: Instant,
    backoff: Backoff,
    /// An event has arrived.
    received: bool,
    /// No event since the last login proves that the upstream accepts the token.
    pub token_unproven: bool,
    /// The position of the last failure that another call may repeat.
    repeatable_at: Option<P>,
}

impl<P: PartialEq> StreamRules<P> {
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            backoff: Backoff::default(),
            received: false,
            token_unproven: false,
            repeatable_at: None,
        }
    }

    /// Notes an event.
    pub fn heard(&mut self, now: Instant, proves_token: bool) {
        self.received = true;
        self.token_unproven &= !proves_token;
        self.backoff.heard(self.opened, now);
    }

    /// Returns whether a fresh token may help after a failure.
    pub fn wants_token(&self, failure: &Failure) -> bool {
        failure.code == Code::Unauthenticated && !self.token_unproven
    }

    /// Returns the next call, or the failure if it is final. `renewed`: a fresh token was wanted, and there is one.
    pub fn resume(
        &mut self,
        failure: Failure,
        position: P,
        renewed: bool,
    ) -> Result<Retry, Failure> {
        self.token_unproven |= renewed;
        let passes = renewed || is_transient(&failure) || failure.reason == SILENT;
        if passes || failure.reason.is_empty() && self.is_broken(failure.code, position) {
            return Ok(self.retry(failure));
        }
        Err(failure)
    }

    /// Returns the next call.
    pub fn retry(&mut self, failure: Failure) -> Retry {
        Retry::new(failure, &mut self.backoff)
    }

    /// Returns whether a status without the gateway's `ErrorInfo` means a broken stream, rather than a wrong address or a
    /// size limit.
    fn is_broken(&mut self, code: Code, position: P) -> bool {
        match code {
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal => true,
            // A message over this client's own receive limit causes this status, and would cause it again.
            Code::ResourceExhausted | Code::OutOfRange => {
                self.is_first_at(position) && self.received
            }
            _ => self.received,
        }
    }

    /// Returns whether a failure that another call may repeat is the first one at a position.
    pub fn is_first_at(&mut self, position: P) -> bool {
        let position = Some(position);
        let first = self.repeatable_at != position;
        self.repeatable_at = position;
        first
    }
}

/// Returns whether a failure is one of load or of an outage, so that a watch continues after a wait.
pub(crate) fn is_transient(failure: &Failure) -> bool {
    match failure.code {
        Code::Unavailable => true,
        Code::ResourceExhausted => failure.retry_after.is_some(),
        _ => false,
    }
}

/// Returns whether an event proves that the upstream accepts the token. Some heartbeats do not: those before the first
/// read has ended, and those between a refusal and the read that confirms it.
pub(crate) fn proves_token(event: &JobEvent) -> bool {
    match &event.payload {
        Some(Payload::Job(_) | Payload::ContentChunk(_)) => true,
        Some(Payload::Heartbeat(heartbeat)) => {
            heartbeat.observe_time.is_some() && heartbeat.last_failure.is_empty()
        }
        _ => false,
    }
}

/// The time for which a stream has been silent, while the program waited for it. A program that does not read hears nothing.
pub(crate) struct Silence {
    limit: Duration,
    spent: Duration,
}

impl Silence {
    /// Creates the limit of a stream whose first request has this heartbeat interval. An invalid one is the gateway's to
    /// reject, so its response needs time to arrive.
    pub fn new(interval: Option<prost_types::Duration>) -> Self {
        let interval = match interval {
            None => DEFAULT_HEARTBEAT,
            Some(interval) => Duration::try_from(interval).unwrap_or_default(),
        };
        Self {
            limit: interval.saturating_mul(3).max(MIN_SILENCE),
            spent: Duration::ZERO,
        }
    }

    /// Awaits something of the stream, up to the limit. The silence continues if this is dropped and called again.
    pub async fn limit<F: Future>(&mut self, something: F) -> Result<F::Output, Elapsed> {
        let left = self.limit.saturating_sub(self.spent);
        let _watch = Stopwatch {
            start: Instant::now(),
            spent: &mut self.spent,
        };
        timeout(left, something).await
    }

    /// Notes an event, or the start of a stream.
    pub fn end(&mut self) {
        self.spent = Duration::ZERO;
    }
}

/// Adds the time until it is dropped.
struct Stopwatch<'a> {
    start: Instant,
    spent: &'a mut Duration,
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        *self.spent = self.spent.saturating_add(self.start.elapsed());
    }
}

/// Returns a later time, or one in the far future if the wait is absurdly long.
pub(crate) fn after(time: Instant, wait: Duration) -> Instant {
    time.checked_add(wait).unwrap_or_else(|| time + FAR_FUTURE)
}

/// Returns the failure of a stream from which no event arrived in time.
pub(crate) fn silent_stream() -> Failure {
    Failure {
        reason: SILENT.to_owned(),
        ..Failure::new(Code::Cancelled, "no event arrived in time")
    }
}

/// Returns the failure of a stream that ended with OK before its jobs.
pub(crate) fn stream_without_end() -> Failure {
    Failure::new(Code::Ok, "the stream ended before the job was done")
}

/// Returns the failure of a submission that ends with its connection, and could therefore not be resumed.
pub(crate) fn cancelled_on_disconnect() -> Failure {
    Failure::new(
        Code::InvalidArgument,
        "cancel_on_disconnect: a broken connection would cancel the job instead of resuming its watch; leave it unset, or \
         call the stub yourself",
    )
}

#[cfg(test)]
mod tests;
