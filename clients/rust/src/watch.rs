//! The resuming watch: the events of a job up to its end, over as many calls as needed (docs/clients/index.md).

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::{Code, Status, Streaming};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::pb::{JobEvent, WatchJobRequest, job_event::Payload};
use crate::rules::{self, Resumption, StreamRules};

/// The reason why a watch ended before its job.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("final status: {0}")]
    Final(#[from] Failure),
    #[error("fresh token: not a valid header value; use visible ASCII characters")]
    Token(#[from] InvalidMetadataValue),
}

/// The events of a job. Dropping the watch cancels the stream; the job continues.
pub struct Watch<'a, F> {
    connection: &'a mut Connection,
    request: WatchJobRequest,
    on_resume: F,
    silence: Duration,
    stream: Option<Streaming<JobEvent>>,
    /// The position is the resume token.
    rules: StreamRules<String>,
    done: bool,
}

impl<'a, F: FnMut(&Resumption)> Watch<'a, F> {
    /// Creates a watch, which starts with the first `next`. `on_resume` is called before the wait for each further call.
    pub fn new(connection: &'a mut Connection, request: WatchJobRequest, on_resume: F) -> Self {
        Self {
            connection,
            silence: rules::silence(&request),
            request,
            on_resume,
            stream: None,
            rules: StreamRules::new(),
            done: false,
        }
    }

    /// Returns the next event, or `None` after the one whose `job.done` is true.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, WatchError> {
        while !self.done {
            // A timeout leaves the stream open; dropping it below cancels the call.
            let failure = match timeout(self.silence, self.receive()).await {
                Ok(Ok(Some(event))) => {
                    self.take(&event);
                    return Ok(Some(event));
                }
                Ok(Ok(None)) => rules::stream_without_end(),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => rules::silent_stream(),
            };
            self.stream = None;
            self.resume(failure).await?;
        }
        if let Some(mut stream) = self.stream.take() {
            // The status changes nothing, but without reading it the call would be cancelled.
            let _ = timeout(self.silence, stream.message()).await;
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<JobEvent>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                self.rules.opened = Instant::now();
                let request = self
                    .connection
                    .request(self.request.clone(), Some(self.request.uid));
                let response = self.connection.stub().watch_job(request).await?;
                self.stream.insert(response.into_inner())
            }
        };
        stream.message().await
    }

    fn take(&mut self, event: &JobEvent) {
        self.rules.heard(Instant::now(), rules::proves_token(event));
        if !event.resume_token.is_empty() {
            self.request.resume_token.clone_from(&event.resume_token);
        }
        self.done = matches!(&event.payload, Some(Payload::Job(job)) if job.done);
    }

    async fn resume(&mut self, failure: Failure) -> Result<(), WatchError> {
        let position = self.request.resume_token.clone();
        let resumption = self.rules.resume(failure, position)?;
        (self.on_resume)(&resumption);
        self.connection.prepare(&resumption).await;
        if resumption.failure.code == Code::Unauthenticated {
            self.connection.log_in()?;
            self.rules.token_unproven = true;
        }
        Ok(())
    }
}
