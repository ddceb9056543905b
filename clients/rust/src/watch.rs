//! The resuming watch: the events of a job up to its end, over as many calls as needed (docs/clients/index.md).

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::pin::Pin;

use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use crate::client::{Access, Client, Pause};
use crate::failure::{Error, Failure};
use crate::hooks::Hooks;
use crate::pb::{Job, JobEvent, RunJobRequest, WatchJobRequest, job_event::Payload};
use crate::result::{JobResult, delivers_result};
use crate::rules::{self, Retry, Silence, StreamRules, after};
use crate::token::Login;

/// The events of a job. Dropping the watch cancels the stream; the job continues.
pub struct Watch<'a> {
    client: Client,
    /// The first request of a run, until the job is known.
    run: Option<RunJobRequest>,
    /// The next request.
    request: WatchJobRequest,
    hooks: Hooks<'a>,
    silence: Silence,
    state: State,
    login: Option<Login>,
    /// The position is the resume token.
    rules: StreamRules<String>,
    result: JobResult,
    end: Option<Job>,
}

/// The state of a watch. It is kept between the calls of `next`, of which each may be dropped before its end.
enum State {
    /// The next call is to be made now.
    Idle,
    /// A call without a response so far.
    Calling(Access, Response),
    Streaming(Access, Streaming<JobEvent>),
    /// The token of a call was rejected.
    LoggingIn(Access, Failure),
    Waiting(Pause),
    /// The job has ended. Without reading the end of its stream, the call would be cancelled.
    Ending(Streaming<JobEvent>, Instant),
    Ended,
    Failed(Error),
}

type Response = Pin<Box<dyn Future<Output = Result<Streaming<JobEvent>, Status>> + Send>>;

/// A job that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The last state of the job.
    pub job: Job,
    /// The result as JSON. Empty if there is none, or if it was not delivered: `job.content_omitted` tells that.
    pub result: Vec<u8>,
}

impl Client {
    /// Watches a job until it ends, and resumes broken streams. The watch starts with the first `next`.
    pub fn watch<'a>(&self, request: WatchJobRequest, hooks: Hooks<'a>) -> Watch<'a> {
        Watch {
            client: self.clone(),
            run: None,
            silence: Silence::new(request.heartbeat_interval),
            request,
            hooks,
            state: State::Idle,
            login: None,
            rules: StreamRules::new(),
            result: JobResult::default(),
            end: None,
        }
    }

    /// Sends a job and watches it in one call, which is resumed like a watch. Before the job is known, the request is sent
    /// again under the conditions of `send`. `cancel_on_disconnect` is rejected, because a broken connection would cancel the
    /// job that the watch resumes.
    pub fn run<'a>(&self, request: impl Into<RunJobRequest>, hooks: Hooks<'a>) -> Watch<'a> {
        let run = request.into();
        let request = WatchJobRequest {
            content_format: run.request.as_ref().map_or(0, |sent| sent.content_format),
            heartbeat_interval: run.heartbeat_interval,
            ..Default::default()
        };
        let state = match run.cancel_on_disconnect {
            true => State::Failed(rules::cancelled_on_disconnect().into()),
            false => State::Idle,
        };
        Watch {
            run: Some(run),
            state,
            ..self.watch(request, hooks)
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut watch = f.debug_struct("Watch");
        watch
            .field("uid", &self.request.uid)
            .finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// Returns the next event, or `None` after the one whose `job.done` is true. Every other end is an error, which each later
    /// call returns again.
    ///
    /// It is cancel-safe: a `select!` or a `timeout` may drop it before it returns, and the next call continues.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, Error> {
        let outcome = self.advance().await;
        if let Err(error) = &outcome {
            self.state = State::Failed(error.clone());
        }
        outcome
    }

    /// Returns the bytes of a result that arrives in chunks, as far as they have arrived. They are complete and verified with
    /// the end of the job.
    pub fn result(&self) -> &[u8] {
        &self.result.chunks
    }

    /// Returns the result of the job as JSON, in whichever form it was delivered: in a job with `done`, or in chunks before it.
    pub fn result_of<'a>(&'a self, job: &'a Job) -> Cow<'a, [u8]> {
        self.result.json(job)
    }

    /// Reads the remaining events, and returns the job and its result.
    pub async fn finish(mut self) -> Result<Finished, Error> {
        let job = loop {
            if self.next().await?.is_none()
                && let Some(job) = self.end.take()
            {
                break job;
            }
        };
        let result = match &job.result {
            None => self.result.chunks,
            Some(_) => self.result.json(&job).into_owned(),
        };
        Ok(Finished { job, result })
    }

    /// Continues at the current state, until the next event.
    async fn advance(&mut self) -> Result<Option<JobEvent>, Error> {
        loop {
            let failure = match &mut self.state {
                State::Idle => {
                    let access = self.client.access(&mut self.login).await?;
                    self.call(access);
                    continue;
                }
                State::Calling(_, response) => match self.silence.limit(response).await {
                    Ok(Ok(stream)) => {
                        if let State::Calling(access, _) = self.take_state() {
                            self.state = State::Streaming(access, stream);
                        }
                        continue;
                    }
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => rules::silent_stream(),
                },
                State::Streaming(_, stream) => match self.silence.limit(stream.message()).await {
                    Ok(Ok(Some(event))) => {
                        self.take(&event)?;
                        return Ok(Some(event));
                    }
                    Ok(Ok(None)) => rules::stream_without_end(),
                    Ok(Err(status)) => Failure::from(status),
                    Err(_) => rules::silent_stream(),
                },
                State::LoggingIn(access, _) => {
                    let renewed = self.client.renew(access, &mut self.login).await?;
                    if let State::LoggingIn(access, failure) = self.take_state() {
                        self.resume(access, failure, renewed)?;
                    }
                    continue;
                }
                State::Waiting(pause) => {
                    self.client.wait_for(pause).await;
                    self.state = State::Idle;
                    continue;
                }
                State::Ending(stream, until) => {
                    if let Ok(Ok(None)) = timeout_at(*until, stream.message()).await
                        && let Ok(Some(trailers)) = stream.trailers().await
                    {
                        self.hooks.report_replayed(&trailers);
                    }
                    self.state = State::Ended;
                    continue;
                }
                State::Ended => return Ok(None),
                State::Failed(error) => return Err(error.clone()),
            };
            // Dropping the stream cancels it.
            if let State::Calling(access, _) | State::Streaming(access, _) = self.take_state() {
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
        self.rules.opened = Instant::now();
        self.silence.end();
        let mut stub = access.stub();
        let response: Response = match &self.run {
            Some(run) if self.request.uid == 0 => {
                let request = access.request(run.clone(), None);
                Box::pin(async move { Ok(stub.run_job(request).await?.into_inner()) })
            }
            _ => {
                let request = access.request(self.request.clone(), Some(self.request.uid));
                Box::pin(async move { Ok(stub.watch_job(request).await?.into_inner()) })
            }
        };
        self.state = State::Calling(access, response);
    }

    /// Notes an event, and verifies the result of a done job.
    fn take(&mut self, event: &JobEvent) -> Result<(), Failure> {
        self.silence.end();
        self.rules.heard(Instant::now(), rules::proves_token(event));
        if event.uid != 0 {
            self.request.uid = event.uid;
        }
        if !event.resume_token.is_empty() {
            self.request.resume_token.clone_from(&event.resume_token);
        }
        match &event.payload {
            Some(Payload::ContentChunk(chunk)) => self.result.take(chunk),
            Some(Payload::Job(job)) => {
                if job.done {
                    self.result.verify(job, delivers_result(&self.request))?;
                    self.end = Some(job.clone());
                    if let State::Streaming(_, stream) = self.take_state() {
                        let until = after(Instant::now(), rules::END_SILENCE);
                        self.state = State::Ending(stream, until);
                    }
                }
                self.hooks.progressed(job);
            }
            _ => {}
        }
        Ok(())
    }

    fn resume(&mut self, access: Access, failure: Failure, renewed: bool) -> Result<(), Failure> {
        let retry = self.decide(failure, renewed)?;
        self.hooks.retrying(&retry);
        self.state = State::Waiting(Pause::new(&retry, access));
        Ok(())
    }

    fn decide(&mut self, failure: Failure, renewed: bool) -> Result<Retry, Failure> {
        if let (0, Some(run)) = (self.request.uid, &self.run) {
            // An error may name the job before an event does.
            self.request.uid = failure.uid().unwrap_or_default();
            if self.request.uid == 0 && !renewed {
                let sent = run.request.as_ref();
                let has_id = sent.is_some_and(|sent| !sent.request_id.is_empty());
                return match failure.may_send_again(has_id) {
                    true => Ok(self.rules.retry(failure)),
                    false => Err(failure),
                };
            }
        }
        let position = self.request.resume_token.clone();
        self.rules.resume(failure, position, renewed)
    }
}

#[cfg(test)]
mod tests;
