//! The resuming watch: the events of a job up to its end, over as many calls as needed (docs/clients/index.md).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::{Code, Status, Streaming};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::pb::{ContentChunk, JobEvent, WatchJobRequest, job_event::Payload};

const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// The reason for a stream that was cancelled because no event arrived in time.
pub const SILENT: &str = "SILENT";

/// The reason why a watch resumes with another call.
#[derive(Debug)]
pub struct Resumption {
    pub failure: Failure,
    pub new_connection: bool,
}

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
    started: Instant,
    /// An event has arrived on this stream.
    received: bool,
    /// An event has arrived on any stream.
    received_any: bool,
    done: bool,
    /// No event since the last login proves that the upstream accepts the token.
    token_unproven: bool,
    /// The resume token at the last status that a message over the receive limit causes.
    over_limit_at: Option<String>,
    backoff: Duration,
}

impl<'a, F: FnMut(&Resumption)> Watch<'a, F> {
    /// Creates a watch, which starts with the first `next`. `on_resume` is called before the wait for each further call.
    pub fn new(connection: &'a mut Connection, request: WatchJobRequest, on_resume: F) -> Self {
        let heartbeat = request
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok());
        Self {
            connection,
            silence: 3 * heartbeat.unwrap_or(DEFAULT_HEARTBEAT),
            request,
            on_resume,
            stream: None,
            started: Instant::now(),
            received: false,
            received_any: false,
            done: false,
            token_unproven: false,
            over_limit_at: None,
            backoff: INITIAL_BACKOFF,
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
                Ok(Ok(None)) => failure(Code::Ok, "the stream ended before the job was done", ""),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => failure(Code::Cancelled, "no event arrived in time", SILENT),
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
                (self.started, self.received) = (Instant::now(), false);
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
        (self.received, self.received_any) = (true, true);
        self.token_unproven &= !proves_token(event);
        if !event.resume_token.is_empty() {
            self.request.resume_token.clone_from(&event.resume_token);
        }
        self.done = matches!(&event.payload, Some(Payload::Job(job)) if job.done);
    }

    async fn resume(&mut self, failure: Failure) -> Result<(), WatchError> {
        let transient = match failure.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => failure.retry_after.is_some(),
            Code::Unauthenticated => !self.token_unproven,
            _ => failure.reason == SILENT,
        };
        let foreign = failure.reason.is_empty();
        let resumable = transient || foreign && self.is_broken(failure.code);
        if !resumable {
            return Err(failure.into());
        }
        // One event does not prove that the stream works: it may break after its first event each time.
        if self.received && self.started.elapsed() > MAX_BACKOFF {
            self.backoff = INITIAL_BACKOFF;
        }
        let resumption = Resumption {
            // A new connection is made immediately. The old one may still be in its own backoff.
            new_connection: foreign || failure.reason == SILENT || failure.reason == "DRAINING",
            failure,
        };
        (self.on_resume)(&resumption);
        let jittered = rand::random_range(self.backoff / 2..self.backoff);
        self.backoff = MAX_BACKOFF.min(2 * self.backoff);
        sleep(jittered.max(resumption.failure.retry_after.unwrap_or_default())).await;
        if resumption.failure.code == Code::Unauthenticated {
            self.connection.log_in()?;
            self.token_unproven = true;
        }
        if resumption.new_connection {
            self.connection.reconnect();
        }
        Ok(())
    }

    /// Returns whether a status without the gateway's `ErrorInfo` means a broken stream, rather than a wrong address or a
    /// size limit.
    fn is_broken(&mut self, code: Code) -> bool {
        match code {
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unavailable => true,
            Code::ResourceExhausted | Code::OutOfRange => {
                // A message over this client's own receive limit causes this status, and would cause it again.
                let token = Some(self.request.resume_token.clone());
                let again = self.over_limit_at == token;
                self.over_limit_at = token;
                self.received_any && !again
            }
            _ => self.received_any,
        }
    }
}

/// Returns whether an event proves that the upstream accepts the token. Some heartbeats do not: those before the first
/// read has ended, and those between a refusal and the read that confirms it.
fn proves_token(event: &JobEvent) -> bool {
    match &event.payload {
        Some(Payload::Job(_) | Payload::ContentChunk(_)) => true,
        Some(Payload::Heartbeat(heartbeat)) => {
            heartbeat.observe_time.is_some() && heartbeat.last_failure.is_empty()
        }
        None => false,
    }
}

/// Returns the failure of a stream that has no error status.
fn failure(code: Code, message: &str, reason: &str) -> Failure {
    Failure {
        code,
        message: message.to_owned(),
        reason: reason.to_owned(),
        retry_after: None,
        fields: Default::default(),
    }
}

/// The bytes of a result that arrives in chunks.
#[derive(Debug, Default)]
pub struct ChunkedResult {
    pub data: Vec<u8>,
}

impl ChunkedResult {
    /// Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
    pub fn take(&mut self, chunk: &ContentChunk) {
        self.data.truncate(chunk.offset as usize);
        self.data.extend_from_slice(&chunk.data);
    }
}
