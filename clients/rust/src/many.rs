//! The resuming watch of many jobs on one stream, up to the end of each (docs/clients/index.md).

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{Access, Client};
use crate::failure::{Error, Failure};
use crate::hooks::Hooks;
pub use crate::many_rules::Item;
use crate::many_rules::{ManyRules, Outcome};
use crate::pb::{JobEvent, WatchJobRequest, WatchJobsRequest};
use crate::rules::{self, Retry};

/// The events of many jobs. Dropping the watch cancels the stream; the jobs continue.
pub struct WatchAll<'a> {
    client: Client,
    rules: ManyRules,
    hooks: Hooks<'a>,
    silence: Duration,
    call: Option<Call>,
}

/// One call, with its stream after the first response.
struct Call {
    access: Access,
    stream: Option<Stream>,
}

/// gRPC reads the requests from a queue, because writing may take until the events have been read.
struct Stream {
    requests: UnboundedSender<WatchJobsRequest>,
    events: Streaming<JobEvent>,
}

impl Client {
    /// Watches many jobs on one stream, which starts with the first `next`. Each uid is watched once. The
    /// `heartbeat_interval` of the first request applies to all.
    pub fn watch_all<'a>(&self, requests: Vec<WatchJobRequest>, hooks: Hooks<'a>) -> WatchAll<'a> {
        WatchAll {
            client: self.clone(),
            silence: requests.first().map(rules::silence).unwrap_or_default(),
            rules: ManyRules::new(requests, Instant::now()),
            hooks,
            call: None,
        }
    }
}

impl WatchAll<'_> {
    /// Returns the bytes of the result of a job that arrives in chunks, as far as they have arrived. They are complete and
    /// verified with the end of the job, and dropped by the next call of `next`.
    pub fn result(&self, uid: i64) -> &[u8] {
        self.rules.result(uid)
    }

    /// Returns the next item, or `None` if every job has ended or its watch has failed.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        self.rules.release();
        while self.rules.pending() > 0 {
            if self.call.is_none() {
                let access = self.client.access().await?;
                self.call = Some(Call {
                    access,
                    stream: None,
                });
            }
            let Some(call) = &mut self.call else { continue };
            let received = timeout(self.silence, call.receive(&mut self.rules)).await;
            let failure = match received {
                Ok(Ok(Some(event))) => match self.take(event).await? {
                    Some(item) => return Ok(Some(item)),
                    None => continue,
                },
                Ok(Ok(None)) => rules::stream_without_end(),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => rules::silent_stream(),
            };
            self.resume(failure).await?;
        }
        if let Some(Stream {
            requests,
            mut events,
        }) = self.call.take().and_then(|call| call.stream)
        {
            drop(requests); // half-closes the stream
            // Its end changes nothing, but without reading it the call would be cancelled.
            let _ = timeout(rules::END_SILENCE, async {
                while let Ok(Some(_)) = events.message().await {}
            })
            .await;
        }
        Ok(None)
    }

    async fn take(&mut self, event: JobEvent) -> Result<Option<Item>, Error> {
        let now = Instant::now();
        let mut outcome = self.rules.take(event, now);
        if let Outcome::LogIn { uid, failure } = outcome {
            if self.is_renewed().await? {
                let retry = self.rules.resume_with_token(failure, now);
                self.prepare(retry).await;
                return Ok(None);
            }
            outcome = self.rules.without_login(uid, failure, now);
        }
        match outcome {
            Outcome::Item(item) => return Ok(Some(item)),
            Outcome::Again(retry) => self.hooks.retrying(&retry),
            Outcome::Nothing | Outcome::LogIn { .. } => {}
        }
        Ok(None)
    }

    /// Returns whether there is another token than that of the current stream, after a login if needed.
    async fn is_renewed(&self) -> Result<bool, Error> {
        let Some(call) = &self.call else {
            return Ok(false);
        };
        let used = &call.access.token;
        let token = self.client.renew(used).await?;
        Ok(token.is_some() && token != *used)
    }

    async fn resume(&mut self, failure: Failure) -> Result<(), Error> {
        let renewed = self.rules.wants_token(&failure) && self.is_renewed().await?;
        match self.rules.resume(failure, Instant::now(), renewed) {
            Ok(retry) => self.prepare(retry).await,
            Err(failure) => {
                self.call = None;
                return Err(failure.into());
            }
        }
        Ok(())
    }

    async fn prepare(&mut self, retry: Retry) {
        self.hooks.retrying(&retry);
        // Dropping the call cancels its stream.
        if let Some(Call { access, .. }) = self.call.take() {
            self.client.prepare(&retry, &access.connection).await;
        }
    }
}

impl Call {
    /// Returns the next event, and sends the requests that are due meanwhile.
    async fn receive(&mut self, rules: &mut ManyRules) -> Result<Option<JobEvent>, Status> {
        let Stream { requests, events } = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let (requests, queue) = unbounded_channel();
                rules.open(Instant::now());
                send_due(rules, &requests);
                let queue = UnboundedReceiverStream::new(queue);
                let request = self.access.request(queue, None);
                let response = self.access.stub().watch_jobs(request).await?;
                let events = response.into_inner();
                self.stream.insert(Stream { requests, events })
            }
        };
        loop {
            send_due(rules, requests);
            let message = events.message();
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
}

/// Sends the requests that are due.
fn send_due(rules: &mut ManyRules, requests: &UnboundedSender<WatchJobsRequest>) {
    while let Some(request) = rules.next(Instant::now()) {
        // The queue is closed if the stream has ended. Its status follows.
        let _ = requests.send(request);
    }
}
