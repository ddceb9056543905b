//! The resuming watch of many jobs on one stream, up to the end of each (docs/clients/index.md).

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::pin::Pin;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{Access, Client, Pause};
use crate::failure::{Error, Failure};
use crate::hooks::Hooks;
pub use crate::many_rules::Item;
use crate::many_rules::{ManyRules, Outcome};
use crate::pb::{Job, JobEvent, WatchJobRequest, WatchJobsRequest};
use crate::result::JobResult;
use crate::rules::{self, Retry, Silence, after};
use crate::token::Login;

/// The events of many jobs. Dropping the watch cancels the stream; the jobs continue.
pub struct WatchAll<'a> {
    client: Client,
    rules: ManyRules,
    hooks: Hooks<'a>,
    silence: Silence,
    state: State,
    login: Option<Login>,
}

/// The state of a watch. It is kept between the calls of `next`, of which each may be dropped before its end.
enum State {
    /// The next call is to be made now.
    Idle,
    /// A call without a response so far.
    Calling(Access, Requests, Response),
    Streaming(Access, Requests, Streaming<JobEvent>),
    /// The token of a stream was rejected.
    LoggingIn(Access, Failure),
    /// The token of a stream was rejected for one of its jobs.
    LoggingInFor(i64, Failure, (Access, Requests, Streaming<JobEvent>)),
    Waiting(Pause),
    /// Every job has ended or failed. Without reading the end of the stream, the call would be cancelled.
    Ending(Streaming<JobEvent>, Instant),
    Ended,
    Failed(Error),
}

/// The queue of requests from which gRPC reads, because writing may take until the events have been read.
type Requests = UnboundedSender<WatchJobsRequest>;
type Response = Pin<Box<dyn Future<Output = Result<Streaming<JobEvent>, Status>> + Send>>;

impl Client {
    /// Watches many jobs on one stream, which starts with the first `next`. Each uid is watched once. The
    /// `heartbeat_interval` of the first request applies to all.
    pub fn watch_all<'a>(&self, requests: Vec<WatchJobRequest>, hooks: Hooks<'a>) -> WatchAll<'a> {
        let interval = requests.first().and_then(|first| first.heartbeat_interval);
        WatchAll {
            client: self.clone(),
            silence: Silence::new(interval),
            rules: ManyRules::new(requests, Instant::now()),
            hooks,
            state: State::Idle,
            login: None,
        }
    }
}

impl fmt::Debug for WatchAll<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut watch = f.debug_struct("WatchAll");
        let watch = watch.field("pending", &self.rules.pending());
        watch.finish_non_exhaustive()
    }
}

impl WatchAll<'_> {
    /// Returns the bytes of the result of a job that arrives in chunks, as far as they have arrived. They are complete and
    /// verified with the end of the job, and dropped by the next call of `next`.
    pub fn result(&self, uid: i64) -> &[u8] {
        self.rules.result(uid).map_or(&[], |result| &result.chunks)
    }

    /// Returns the result of a done job of the last item as JSON, in whichever form it was delivered: in the job, or in chunks
    /// before it.
    pub fn result_of<'a>(&'a self, job: &'a Job) -> Cow<'a, [u8]> {
        const NOTHING: &JobResult = &JobResult::new();
        self.rules.result(job.uid).unwrap_or(NOTHING).json(job)
    }

    /// Returns the next item, or `None` if every job has ended or its watch has failed. Each call after an error returns that
    /// error again.
    ///
    /// It is cancel-safe: a `select!` or a `timeout` may drop it before it returns, and the next call continues.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        self.rules.release();
        let outcome = self.advance().await;
        if let Err(error) = &outcome {
            self.state = State::Failed(error.clone());
        }
        outcome
    }

    /// Continues at the current state, until the next item.
    async fn advance(&mut self) -> Result<Option<Item>, Error> {
        loop {
            let failure = match &mut self.state {
                State::Idle if self.rules.pending() == 0 => return Ok(None),
                State::Idle => {
                    let access = self.client.access(&mut self.login).await?;
                    self.call(access);
                    continue;
                }
                State::Calling(_, _, response) => match self.silence.limit(response).await {
                    Ok(Ok(stream)) => {
                        if let State::Calling(access, requests, _) = self.take_state() {
                            self.state = State::Streaming(access, requests, stream);
                        }
                        continue;
                    }
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => rules::silent_stream(),
                },
                State::Streaming(_, requests, stream) => {
                    let event = next_event(&mut self.rules, requests, stream);
                    match self.silence.limit(event).await {
                        Ok(Ok(Some(event))) => match self.take(event) {
                            Some(item) => return Ok(Some(item)),
                            None => continue,
                        },
                        Ok(Ok(None)) => rules::stream_without_end(),
                        Ok(Err(status)) => Failure::from(status),
                        Err(_) => rules::silent_stream(),
                    }
                }
                State::LoggingIn(access, _) => {
                    let renewed = self.client.renew(access, &mut self.login).await?;
                    if let State::LoggingIn(access, failure) = self.take_state() {
                        self.resume(access, failure, renewed)?;
                    }
                    continue;
                }
                State::LoggingInFor(_, _, (access, ..)) => {
                    let renewed = self.client.renew(access, &mut self.login).await?;
                    match self.logged_in(renewed) {
                        Some(item) => return Ok(Some(item)),
                        None => continue,
                    }
                }
                State::Waiting(pause) => {
                    self.client.wait_for(pause).await;
                    self.state = State::Idle;
                    continue;
                }
                State::Ending(stream, until) => {
                    // The end changes nothing.
                    while let Ok(Ok(Some(_))) = timeout_at(*until, stream.message()).await {}
                    self.state = State::Ended;
                    continue;
                }
                State::Ended => return Ok(None),
                State::Failed(error) => return Err(error.clone()),
            };
            // Dropping the stream cancels it.
            if let State::Calling(access, ..) | State::Streaming(access, ..) = self.take_state() {
                if self.rules.wants_token(&failure) {
                    self.state = State::LoggingIn(access, failure);
                } else {
                    self.resume(access, failure, false)?;
                }
            }
        }
    }

    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Idle)
    }

    /// Begins the next call.
    fn call(&mut self, access: Access) {
        let (requests, queue) = unbounded_channel();
        self.silence.end();
        self.rules.open(Instant::now());
        send_due(&mut self.rules, &requests);
        let mut stub = access.stub();
        let request = access.request(UnboundedReceiverStream::new(queue), None);
        let response: Response =
            Box::pin(async move { Ok(stub.watch_jobs(request).await?.into_inner()) });
        self.state = State::Calling(access, requests, response);
    }

    fn take(&mut self, event: JobEvent) -> Option<Item> {
        self.silence.end();
        let outcome = self.rules.take(event, Instant::now());
        if let Outcome::LogIn { uid, failure } = outcome {
            if let State::Streaming(access, requests, stream) = self.take_state() {
                self.state = State::LoggingInFor(uid, failure, (access, requests, stream));
            }
            return None;
        }
        self.item(outcome)
    }

    /// Continues after the login for a job.
    fn logged_in(&mut self, renewed: bool) -> Option<Item> {
        let State::LoggingInFor(uid, failure, (access, requests, stream)) = self.take_state()
        else {
            return None;
        };
        if renewed {
            let retry = self.rules.resume_with_token(failure, Instant::now());
            self.wait(&retry, access);
            return None;
        }
        self.state = State::Streaming(access, requests, stream);
        let outcome = self.rules.without_login(uid, failure, Instant::now());
        self.item(outcome)
    }

    fn item(&mut self, outcome: Outcome) -> Option<Item> {
        if self.rules.pending() == 0
            && let State::Streaming(_, _, stream) = self.take_state()
        {
            // Dropping the requests half-closes the stream.
            self.state = State::Ending(stream, after(Instant::now(), rules::END_SILENCE));
        }
        match outcome {
            Outcome::Item(item) => return Some(item),
            Outcome::Again(retry) => self.hooks.retrying(&retry),
            Outcome::Nothing | Outcome::LogIn { .. } => {}
        }
        None
    }

    fn resume(&mut self, access: Access, failure: Failure, renewed: bool) -> Result<(), Failure> {
        let retry = self.rules.resume(failure, Instant::now(), renewed)?;
        self.wait(&retry, access);
        Ok(())
    }

    fn wait(&mut self, retry: &Retry, access: Access) {
        self.hooks.retrying(retry);
        self.state = State::Waiting(Pause::new(retry, access));
    }
}

/// Returns the next event, and sends the requests that are due meanwhile.
async fn next_event(
    rules: &mut ManyRules,
    requests: &Requests,
    stream: &mut Streaming<JobEvent>,
) -> Result<Option<JobEvent>, Status> {
    loop {
        send_due(rules, requests);
        let message = stream.message();
        match rules.next_due() {
            None => return message.await,
            Some(due) => {
                if let Ok(received) = timeout_at(due, message).await {
                    return received;
                }
            }
        }
    }
}

/// Sends the requests that are due.
fn send_due(rules: &mut ManyRules, requests: &Requests) {
    while let Some(request) = rules.next(Instant::now()) {
        // The queue is closed if the stream has ended. Its status follows.
        let _ = requests.send(request);
    }
}

#[cfg(test)]
mod tests;
