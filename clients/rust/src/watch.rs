//! The resuming watch: one job's events up to its end, over as many calls as that takes (docs/clients/index.md).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::{Code, Status, Streaming};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::pb::{ContentChunk, JobEvent, WatchJobRequest, job_event::Payload};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// The reason of a stream that was given up because nothing was heard from it.
pub const SILENT: &str = "SILENT";

/// Why a watch goes on in another call.
#[derive(Debug)]
pub struct Resumption {
    pub failure: Failure,
    pub new_connection: bool,
}

/// Why a watch ended before its job.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("a status that is final: {0}")]
    Final(#[from] Failure),
    #[error("the fresh token is none")]
    Token(#[from] InvalidMetadataValue),
}

/// The events of a job. Whoever drops it leaves the stream; the job runs on.
pub struct Watch<'a, F> {
    connection: &'a mut Connection,
    request: WatchJobRequest,
    on_resume: F,
    silence: Duration,
    stream: Option<Streaming<JobEvent>>,
    began: Instant,
    heard: bool,
    done: bool,
    fresh_token: bool,
    heard_ever: bool,
    /// The resume token at the last status that a message over the receive limit gives.
    over_limit_at: Option<String>,
    backoff: Duration,
}

impl<'a, F: FnMut(&Resumption)> Watch<'a, F> {
    /// Calls nothing yet. `on_resume` is told of each failure after which the watch goes on, before it waits.
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
            began: Instant::now(),
            heard: false,
            done: false,
            fresh_token: false,
            heard_ever: false,
            over_limit_at: None,
            backoff: FIRST_WAIT,
        }
    }

    /// The next event; none after the one whose `job.done` is true.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, WatchError> {
        while !self.done {
            // Dropped with its call, a stream that fell silent is cancelled.
            let failure = match timeout(self.silence, self.receive()).await {
                Ok(Ok(Some(event))) => {
                    self.take(&event);
                    return Ok(Some(event));
                }
                Ok(Ok(None)) => given_up(Code::Ok, "the stream ended: a proxy ended it", ""),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => given_up(Code::Cancelled, "nothing was heard", SILENT),
            };
            self.stream = None;
            self.resume(failure).await?;
        }
        if let Some(mut stream) = self.stream.take() {
            // Only the status is left, which changes nothing; dropped before it, the call would be cancelled.
            let _ = timeout(self.silence, stream.message()).await;
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<JobEvent>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                (self.began, self.heard) = (Instant::now(), false);
                let request = self.connection.request(self.request.clone());
                let answer = self.connection.stub().watch_job(request).await?;
                self.stream.insert(answer.into_inner())
            }
        };
        stream.message().await
    }

    fn take(&mut self, event: &JobEvent) {
        (self.heard, self.heard_ever) = (true, true);
        self.fresh_token &= !proves_token(event);
        if !event.resume_token.is_empty() {
            self.request.resume_token.clone_from(&event.resume_token);
        }
        self.done = matches!(&event.payload, Some(Payload::Job(job)) if job.done);
    }

    async fn resume(&mut self, failure: Failure) -> Result<(), WatchError> {
        let passing = match failure.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => failure.retry_after.is_some(),
            Code::Unauthenticated => !self.fresh_token,
            _ => failure.reason == SILENT,
        };
        let foreign = failure.reason.is_empty();
        let resumable = passing || foreign && self.is_broken(failure.code);
        if !resumable {
            return Err(failure.into());
        }
        // One event does not make a stream that works: it may break each time after the first.
        if self.heard && self.began.elapsed() > LONGEST_WAIT {
            self.backoff = FIRST_WAIT;
        }
        let resumption = Resumption {
            // A new one is made at once, whatever the old one's own backoff.
            new_connection: foreign || failure.reason == SILENT || failure.reason == "DRAINING",
            failure,
        };
        (self.on_resume)(&resumption);
        let jittered = rand::random_range(self.backoff / 2..self.backoff);
        self.backoff = LONGEST_WAIT.min(2 * self.backoff);
        sleep(jittered.max(resumption.failure.retry_after.unwrap_or_default())).await;
        if resumption.failure.code == Code::Unauthenticated {
            self.connection.log_in()?;
            self.fresh_token = true;
        }
        if resumption.new_connection {
            self.connection.renew();
        }
        Ok(())
    }

    /// Whether a status that is not the gateway's means a broken stream, and not a wrong address or a limit.
    fn is_broken(&mut self, code: Code) -> bool {
        match code {
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unavailable => true,
            Code::ResourceExhausted | Code::OutOfRange => {
                // A message over this client's own receive limit ends like this, and would do so again.
                let token = Some(self.request.resume_token.clone());
                let again = self.over_limit_at == token;
                self.over_limit_at = token;
                self.heard_ever && !again
            }
            _ => self.heard_ever,
        }
    }
}

/// Whether an event shows that the upstream accepts the token. A heartbeat also comes before the first read has ended, and
/// between a refusal and the read that confirms it.
fn proves_token(event: &JobEvent) -> bool {
    match &event.payload {
        Some(Payload::Job(_) | Payload::ContentChunk(_)) => true,
        Some(Payload::Heartbeat(heartbeat)) => {
            heartbeat.observe_time.is_some() && heartbeat.last_failure.is_empty()
        }
        None => false,
    }
}

/// Why a stream is left that has no error of its own.
fn given_up(code: Code, message: &str, reason: &str) -> Failure {
    Failure {
        code,
        message: message.to_owned(),
        reason: reason.to_owned(),
        retry_after: None,
        fields: Default::default(),
    }
}

/// The bytes of a result that comes in chunks.
#[derive(Debug, Default)]
pub struct ChunkedResult {
    pub data: Vec<u8>,
}

impl ChunkedResult {
    /// Adds a chunk. After a resumption chunks may begin again at 0, so what is held is cut to its offset.
    pub fn take(&mut self, chunk: &ContentChunk) {
        self.data.truncate(chunk.offset as usize);
        self.data.extend_from_slice(&chunk.data);
    }
}
