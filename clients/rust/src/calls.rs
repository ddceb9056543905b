//! The unary calls, with retries.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::client::{Client, Pause};
use crate::failure::{Action, Error, Failure};
use crate::hooks::Hooks;
use crate::pb::job_service_client::JobServiceClient;
use crate::pb::{CancelJobRequest, GetJobRequest, Job, SendJobRequest, WaitJobRequest};
use crate::result::JobResult;
use crate::rules::{Backoff, Retry, after, is_transient};

/// The maximum number of attempts, including the first. Only `wait` makes more.
const MAX_ATTEMPTS: u32 = 5;

// The gateway gives up a read after 10 silent seconds, and a submission after 120.
const READ_LIMIT: Duration = Duration::from_secs(30);
const SEND_LIMIT: Duration = Duration::from_secs(150);
/// The limit of a `WaitJob` without a timeout.
const WAIT_LIMIT: Duration = Duration::from_secs(70);

type Stub = JobServiceClient<Channel>;

/// A call of one method.
struct Unary<M> {
    message: M,
    /// The job that the call is about.
    uid: Option<i64>,
    /// The time after which the connection counts as dead.
    limit: Duration,
    patience: Patience,
}

/// The limit of the attempts of a call.
enum Patience {
    /// `MAX_ATTEMPTS`.
    Attempts,
    /// An outage may last until this time, or for ever.
    Until(Option<Instant>),
}

impl Client {
    /// Sends a job. The request is sent again if the gateway guarantees that no job was created, or if it has a `request_id`,
    /// which makes that safe. It is never sent again after `SUBMIT_OUTCOME_UNKNOWN`: whether to do so is your decision.
    pub async fn send(&self, request: SendJobRequest, mut hooks: Hooks<'_>) -> Result<Job, Error> {
        let has_id = !request.request_id.is_empty();
        let call = Unary {
            message: request,
            uid: None,
            limit: SEND_LIMIT,
            patience: Patience::Attempts,
        };
        let may_retry = |failure: &Failure| failure.may_send_again(has_id);
        self.unary(
            call,
            &mut hooks,
            may_retry,
            |mut stub, request| async move { stub.send_job(request).await },
        )
        .await
    }

    /// Reads a job once.
    pub async fn get(&self, request: GetJobRequest, mut hooks: Hooks<'_>) -> Result<Job, Error> {
        let call = Unary {
            uid: Some(request.uid),
            message: request,
            limit: READ_LIMIT,
            patience: Patience::Attempts,
        };
        self.unary(
            call,
            &mut hooks,
            may_retry,
            |mut stub, request| async move { stub.get_job(request).await },
        )
        .await
    }

    /// Asks to cancel a job, and returns its state. The job may continue for a while.
    pub async fn cancel(&self, uid: i64, mut hooks: Hooks<'_>) -> Result<Job, Error> {
        let call = Unary {
            uid: Some(uid),
            message: CancelJobRequest { uid },
            limit: READ_LIMIT,
            patience: Patience::Attempts,
        };
        self.unary(
            call,
            &mut hooks,
            may_retry,
            |mut stub, request| async move { stub.cancel_job(request).await },
        )
        .await
    }

    /// Waits until a job is done, without a stream, and continues over an outage like a watch.
    ///
    /// After the `timeout` of the request, it returns the job as it is then, which may not be done. If no state could be read,
    /// it fails with `Code::DeadlineExceeded`, and the last failure as its `cause`; it does so immediately if the next attempt
    /// would come too late. The `timeout` counts for all attempts; the last login and the last response may take 30 seconds
    /// more. Without a `timeout`, it waits as long as it takes.
    pub async fn wait(&self, request: WaitJobRequest, mut hooks: Hooks<'_>) -> Result<Job, Error> {
        let timeout = request.timeout;
        let timeout = timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let deadline = timeout.map(|timeout| after(Instant::now(), timeout));
        loop {
            let call = Unary {
                uid: Some(request.uid),
                message: request,
                limit: WAIT_LIMIT,
                patience: Patience::Until(deadline),
            };
            let rpc = |mut stub: Stub, mut request: Request<WaitJobRequest>| {
                if let Some(deadline) = deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    request.get_mut().timeout = left.try_into().ok();
                    request.set_timeout(left.saturating_add(READ_LIMIT));
                }
                async move { stub.wait_job(request).await }
            };
            let job = self.unary(call, &mut hooks, may_retry, rpc).await?;
            if job.done || request.timeout.is_some() {
                return Ok(job);
            }
        }
    }

    /// Makes a call and retries it if the failure allows that.
    async fn unary<M: Clone, R: Future<Output = Result<Response<Job>, Status>>>(
        &self,
        call: Unary<M>,
        hooks: &mut Hooks<'_>,
        may_retry: impl Fn(&Failure) -> bool,
        rpc: impl Fn(Stub, Request<M>) -> R,
    ) -> Result<Job, Error> {
        let mut backoff = Backoff::default();
        let mut logged_in = false;
        let mut login = None;
        let mut last = None;
        let mut attempt = 1;
        loop {
            let access = call.patience.limit(self.access(&mut login)).await;
            let access = access.ok_or_else(|| timed_out(last))??;
            let mut request = access.request(call.message.clone(), call.uid);
            request.set_timeout(call.limit);
            let failure = match rpc(access.stub(), request).await {
                Ok(response) => {
                    hooks.report_replayed(response.metadata());
                    let job = response.into_inner();
                    JobResult::default().verify(&job, false)?;
                    return Ok(job);
                }
                Err(status) => Failure::from(status),
            };
            let mut again = may_retry(&failure);
            // A submission is not repeated then.
            let job_exists = call.uid.is_none() && failure.uid().is_some();
            if failure.code == Code::Unauthenticated && !logged_in && !job_exists {
                logged_in = true;
                let renewed = call.patience.limit(self.renew(&access, &mut login)).await;
                again = renewed.ok_or_else(|| timed_out(Some(failure.clone())))??;
            }
            if !again || !call.patience.allows(attempt, &failure) {
                return Err(failure.into());
            }
            attempt += 1;
            let retry = Retry::new(failure, &mut backoff);
            let pause = Pause::new(&retry, access);
            if call.patience.ends_before(pause.until) {
                return Err(timed_out(Some(retry.failure)).into());
            }
            hooks.retrying(&retry);
            last = Some(retry.failure);
            self.wait_for(&pause).await;
        }
    }
}

impl Patience {
    /// Returns whether another attempt may follow a failure.
    fn allows(&self, attempt: u32, failure: &Failure) -> bool {
        // A watch continues after these, too.
        let is_outage = is_transient(failure) || failure.reason.is_empty();
        attempt < MAX_ATTEMPTS || matches!(self, Self::Until(_)) && is_outage
    }

    /// Awaits a login. Returns `None` if it takes so long that the gateway could not respond in time.
    async fn limit<F: Future>(&self, login: F) -> Option<F::Output> {
        match self {
            Self::Until(Some(deadline)) => {
                timeout_at(after(*deadline, READ_LIMIT), login).await.ok()
            }
            _ => Some(login.await),
        }
    }

    fn ends_before(&self, time: Instant) -> bool {
        matches!(self, Self::Until(Some(deadline)) if *deadline <= time)
    }
}

/// Returns the failure of a call whose timeout has passed.
fn timed_out(last: Option<Failure>) -> Failure {
    Failure {
        cause: last.map(Box::new),
        ..Failure::new(Code::DeadlineExceeded, "the timeout of the call has passed")
    }
}

fn may_retry(failure: &Failure) -> bool {
    failure.action() == Action::Retry
}

#[cfg(test)]
mod tests;
