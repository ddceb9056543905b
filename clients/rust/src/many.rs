//! The resuming watch of many jobs on one stream, up to the end of each (docs/clients/index.md).

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::connection::Connection;
use crate::failure::Failure;
pub use crate::many_rules::Item;
use crate::many_rules::{ManyRules, Outcome};
use crate::pb::{JobEvent, WatchJobRequest, WatchJobsRequest};
use crate::rules::{self, Resumption};
use crate::watch::WatchError;

/// How long the stream may take to end after the last job has ended.
const END_SILENCE: Duration = Duration::from_secs(5);

/// The events of many jobs. Dropping the watch cancels the stream; the jobs continue.
pub struct WatchAll<'a, F> {
    connection: &'a mut Connection,
    rules: ManyRules,
    on_resume: F,
    silence: Duration,
    call: Option<Call>,
}

/// One call. gRPC reads the requests from a queue, because writing may take until the events have been read.
struct Call {
    requests: UnboundedSender<WatchJobsRequest>,
    events: Streaming<JobEvent>,
}

impl<'a, F: FnMut(&Resumption)> WatchAll<'a, F> {
    /// Creates a watch, which starts with the first `next`. Each uid is watched once. The `heartbeat_interval` of the first
    /// request applies to all.
    ///
    /// `on_resume` is called before the wait for each further stream, and before the wait for each further watch of a job on
    /// the same stream.
    pub fn new(
        connection: &'a mut Connection,
        requests: Vec<WatchJobRequest>,
        on_resume: F,
    ) -> Self {
        Self {
            connection,
            silence: requests.first().map(rules::silence).unwrap_or_default(),
            rules: ManyRules::new(requests, Instant::now()),
            on_resume,
            call: None,
        }
    }

    /// Returns the bytes of the result of a job that arrives in chunks, as far as they have arrived. They are complete and
    /// verified with the end of the job, and dropped by the next call of `next`.
    pub fn result(&self, uid: i64) -> &[u8] {
        self.rules.result(uid)
    }

    /// Returns the next item, or `None` if every job has ended or its watch has failed.
    pub async fn next(&mut self) -> Result<Option<Item>, WatchError> {
        self.rules.release();
        while self.rules.pending() > 0 {
            // A timeout leaves the stream open; dropping it below cancels the call.
            let failure = match timeout(self.silence, self.receive()).await {
                Ok(Ok(Some(event))) => match self.take(event).await? {
                    Some(item) => return Ok(Some(item)),
                    None => continue,
                },
                Ok(Ok(None)) => rules::stream_without_end(),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => rules::silent_stream(),
            };
            self.call = None;
            let resumption = self.rules.resume(failure, Instant::now())?;
            if resumption.failure.code == Code::Unauthenticated {
                self.connection.log_in()?;
                self.rules.renewed();
            }
            self.prepare(resumption).await;
        }
        if let Some(Call {
            requests,
            mut events,
        }) = self.call.take()
        {
            drop(requests); // half-closes the stream
            // Its end changes nothing, but without reading it the call would be cancelled.
            let _ = timeout(END_SILENCE, async {
                while let Ok(Some(_)) = events.message().await {}
            })
            .await;
        }
        Ok(None)
    }

    /// Returns the next event, and sends the requests that are due meanwhile.
    async fn receive(&mut self) -> Result<Option<JobEvent>, Status> {
        let call = match &mut self.call {
            Some(call) => call,
            None => {
                let (requests, queue) = unbounded_channel();
                self.rules.open(Instant::now());
                send_due(&mut self.rules, &requests);
                let queue = UnboundedReceiverStream::new(queue);
                let request = self.connection.request(queue, None);
                let response = self.connection.stub().watch_jobs(request).await?;
                let events = response.into_inner();
                self.call.insert(Call { requests, events })
            }
        };
        loop {
            send_due(&mut self.rules, &call.requests);
            let message = call.events.message();
            match self.rules.next_due() {
                None => return message.await,
                Some(due) => {
                    if let Ok(received) = timeout_at(due, message).await {
                        return received;
                    }
                }
            }
        }
    }

    async fn take(&mut self, event: JobEvent) -> Result<Option<Item>, WatchError> {
        let now = Instant::now();
        let mut outcome = self.rules.take(event, now);
        if let Outcome::LogIn { uid, failure } = outcome {
            if self.connection.log_in()? {
                self.call = None;
                self.rules.renewed();
                let resumption = self.rules.resume_with_token(failure, now);
                self.prepare(resumption).await;
                return Ok(None);
            }
            outcome = self.rules.without_login(uid, failure, now);
        }
        match outcome {
            Outcome::Item(item) => return Ok(Some(item)),
            Outcome::Again(resumption) => (self.on_resume)(&resumption),
            Outcome::Nothing | Outcome::LogIn { .. } => {}
        }
        Ok(None)
    }

    async fn prepare(&mut self, resumption: Resumption) {
        (self.on_resume)(&resumption);
        self.connection.prepare(&resumption).await;
    }
}

/// Sends the requests that are due.
fn send_due(rules: &mut ManyRules, requests: &UnboundedSender<WatchJobsRequest>) {
    while let Some(request) = rules.next(Instant::now()) {
        // The queue is closed if the stream has ended. Its status follows.
        let _ = requests.send(request);
    }
}
