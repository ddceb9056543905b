//! The resuming watch: the events of a job up to its end, over as many calls as needed (docs/clients/index.md).

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use crate::client::{Access, Client};
use crate::failure::{Error, Failure};
use crate::hooks::Hooks;
use crate::pb::{
    ContentFormat, Job, JobEvent, RunJobRequest, WatchJobRequest, job, job_event::Payload,
};
use crate::result::ChunkedResult;
use crate::rules::{self, Retry, StreamRules};
use crate::values::json_from_struct;

/// The events of a job. Dropping the watch cancels the stream; the job continues.
pub struct Watch<'a> {
    client: Client,
    /// The first request of a run, until the job is known.
    run: Option<RunJobRequest>,
    /// The run was sent, and its outcome is not known.
    run_sent: bool,
    /// The next request.
    request: WatchJobRequest,
    hooks: Hooks<'a>,
    silence: Duration,
    call: Option<Call>,
    /// The position is the resume token.
    rules: StreamRules<String>,
    result: ChunkedResult,
    end: Option<Job>,
}

/// One call, with its stream after the first response.
struct Call {
    access: Access,
    stream: Option<Streaming<JobEvent>>,
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The last state of the job.
    pub job: Job,
    /// The result as JSON; empty if there is none, or if it was not requested.
    pub result: Vec<u8>,
}

impl Client {
    /// Watches a job until it ends, and resumes broken streams. The watch starts with the first `next`.
    pub fn watch<'a>(&self, request: WatchJobRequest, hooks: Hooks<'a>) -> Watch<'a> {
        Watch {
            client: self.clone(),
            run: None,
            run_sent: false,
            silence: rules::silence(&request),
            request,
            hooks,
            call: None,
            rules: StreamRules::new(),
            result: ChunkedResult::default(),
            end: None,
        }
    }

    /// Sends a job and watches it in one call, which is resumed like a watch. Before the job is known, the request is sent
    /// again under the conditions of `send`.
    pub fn run<'a>(&self, request: impl Into<RunJobRequest>, hooks: Hooks<'a>) -> Watch<'a> {
        let run = request.into();
        let request = WatchJobRequest {
            content_format: run.request.as_ref().map_or(0, |sent| sent.content_format),
            heartbeat_interval: run.heartbeat_interval,
            ..Default::default()
        };
        Watch {
            run: Some(run),
            ..self.watch(request, hooks)
        }
    }
}

impl Watch<'_> {
    /// Returns the next event, or `None` after the one whose `job.done` is true. Every other end is an error.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, Error> {
        while self.end.is_none() {
            if self.call.is_none() {
                let access = self.client.access().await?;
                self.call = Some(Call {
                    access,
                    stream: None,
                });
            }
            // A timeout leaves the stream open; dropping the call cancels it.
            let failure = match timeout(self.silence, self.receive()).await {
                Ok(Ok(Some(event))) => {
                    self.take(&event)?;
                    return Ok(Some(event));
                }
                Ok(Ok(None)) => rules::stream_without_end(),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => rules::silent_stream(),
            };
            self.resume(failure).await?;
        }
        if let Some(mut stream) = self.call.take().and_then(|call| call.stream) {
            // Without reading its end, the call would be cancelled.
            let end = timeout(rules::END_SILENCE, stream.message()).await;
            if matches!(end, Ok(Ok(None)))
                && let Ok(Some(trailers)) = stream.trailers().await
            {
                self.hooks.ended(&trailers);
            }
        }
        Ok(None)
    }

    /// Returns the bytes of a result that arrives in chunks, as far as they have arrived. They are complete and verified with
    /// the end of the job.
    pub fn result(&self) -> &[u8] {
        &self.result.data
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
            Some(job::Result::Content(content)) => json_from_struct(content).to_string().into(),
            Some(job::Result::ContentJson(data)) => data.clone(),
            None => self.result.data,
        };
        Ok(Finished { job, result })
    }

    async fn receive(&mut self) -> Result<Option<JobEvent>, Status> {
        let Some(call) = &mut self.call else {
            return Ok(None);
        };
        let stream = match &mut call.stream {
            Some(stream) => stream,
            None => {
                self.rules.opened = Instant::now();
                let mut stub = call.access.stub();
                let response = match &self.run {
                    Some(run) if self.request.uid == 0 => {
                        if self.run_sent {
                            return Err(Status::unknown("an earlier call of next was dropped"));
                        }
                        self.run_sent = true;
                        stub.run_job(call.access.request(run.clone(), None)).await?
                    }
                    _ => {
                        let uid = Some(self.request.uid);
                        let request = call.access.request(self.request.clone(), uid);
                        stub.watch_job(request).await?
                    }
                };
                call.stream.insert(response.into_inner())
            }
        };
        stream.message().await
    }

    /// Notes an event, and verifies the result of a done job.
    fn take(&mut self, event: &JobEvent) -> Result<(), Failure> {
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
                    // The other formats deliver a large result by another call.
                    let complete = matches!(
                        self.request.content_format(),
                        ContentFormat::Unspecified | ContentFormat::JsonChunks
                    );
                    self.result.verify(job, complete)?;
                    self.end = Some(job.clone());
                }
                self.hooks.progressed(job);
            }
            _ => {}
        }
        Ok(())
    }

    async fn resume(&mut self, failure: Failure) -> Result<(), Error> {
        let Some(Call { access, .. }) = self.call.take() else {
            return Err(failure.into());
        };
        let renewed =
            self.rules.wants_token(&failure) && self.client.renew(&access.token).await?.is_some();
        let retry = self.decide(failure, renewed)?;
        self.run_sent = false;
        self.hooks.retrying(&retry);
        self.client.prepare(&retry, &access.connection).await;
        Ok(())
    }

    fn decide(&mut self, failure: Failure, renewed: bool) -> Result<Retry, Failure> {
        if let (0, Some(run), false) = (self.request.uid, &self.run, renewed) {
            // An error may name the job before an event does.
            match failure.uid() {
                Some(uid) => self.request.uid = uid,
                None => {
                    let sent = run.request.as_ref();
                    let has_id = sent.is_some_and(|sent| !sent.request_id.is_empty());
                    return match failure.may_send_again(has_id) {
                        true => Ok(self.rules.retry(failure)),
                        false => Err(failure),
                    };
                }
            }
        }
        let position = self.request.resume_token.clone();
        self.rules.resume(failure, position, renewed)
    }
}

#[cfg(test)]
mod tests;
