//! The resuming watch of many jobs on one stream: its requests, and the decision about each event and failure. This module
//! does no input or output.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tokio::time::Instant;
use tonic::Code;

use crate::failure::Failure;
use crate::pb::{
    JobEvent, WatchJobRequest, WatchJobsRequest, job_event::Payload, watch_jobs_request::Action,
};
use crate::result::{JobResult, delivers_result};
use crate::rules::{Backoff, Retry, StreamRules, after, is_transient, proves_token};

const DEFECT: &str = "GATEWAY_DEFECT";
const ALREADY_WATCHED: &str = "ALREADY_WATCHED";

/// An event, or the end of the watch of one job by a failure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// An event. Those with the uid 0 are about the stream.
    Event(Box<JobEvent>),
    /// The watch of this job has failed; the others continue. `Code::DataLoss`: its result was damaged.
    Failed {
        /// The job.
        uid: i64,
        /// The final failure of its watch.
        failure: Failure,
    },
}

/// The consequence of an event.
pub(crate) enum Outcome {
    Nothing,
    Item(Item),
    /// The job is watched again on the same stream.
    Again(Retry),
    /// A fresh token may help.
    LogIn {
        uid: i64,
        failure: Failure,
    },
}

/// A job whose watch has not ended.
struct Watched {
    /// The next request.
    request: WatchJobRequest,
    /// The time of the last request.
    sent: Instant,
    /// The request may not be sent before this time.
    due: Instant,
    /// The request was not sent on the current stream.
    unsent: bool,
    /// No event since the last login proves that the upstream accepts the token for this job.
    token_unproven: bool,
    backoff: Backoff,
}

/// The watches of many jobs. A job is pending until it has ended or its watch has failed.
pub(crate) struct ManyRules {
    jobs: HashMap<i64, Watched>,
    results: HashMap<i64, JobResult>,
    /// The position is the number of events after which a stream can continue.
    stream: StreamRules<u64>,
    resumable_events: u64,
    /// The jobs whose request was not sent on the current stream, by the time from which it may be.
    unsent: BinaryHeap<Reverse<(Instant, i64)>>,
    /// The number of requests on the current stream.
    requests: i64,
    /// A login returned no token for the failures of the current stream.
    no_token: bool,
    /// The job of the last event, if it has ended.
    ended: Option<i64>,
}

impl ManyRules {
    /// Creates the rules for the first request of each job. The heartbeat interval of a stream is that of the request that
    /// comes first, which may be that of any job.
    pub fn new(requests: Vec<WatchJobRequest>, now: Instant) -> Self {
        let interval = requests.first().and_then(|first| first.heartbeat_interval);
        let mut jobs = HashMap::new();
        for mut request in requests {
            request.heartbeat_interval = interval;
            jobs.entry(request.uid).or_insert(Watched {
                request,
                sent: now,
                due: now,
                unsent: true,
                token_unproven: false,
                backoff: Backoff::default(),
            });
        }
        Self {
            jobs,
            results: HashMap::new(),
            stream: StreamRules::new(),
            resumable_events: 0,
            unsent: BinaryHeap::new(),
            requests: 0,
            no_token: false,
            ended: None,
        }
    }

    /// Returns the number of jobs that have not ended.
    pub fn pending(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the bytes of a result in chunks, as far as they have arrived.
    pub fn result(&self, uid: i64) -> Option<&JobResult> {
        self.results.get(&uid)
    }

    /// Drops the result of the job that ended with the last event.
    pub fn release(&mut self) {
        if let Some(uid) = self.ended.take() {
            self.results.remove(&uid);
        }
    }

    /// Notes that a stream begins.
    pub fn open(&mut self, now: Instant) {
        self.stream.opened = now;
        (self.requests, self.no_token) = (0, false);
        for job in self.jobs.values_mut() {
            job.unsent = true;
        }
        let all = self.jobs.iter().map(|(uid, job)| Reverse((job.due, *uid)));
        self.unsent = all.collect();
    }

    /// Returns the request that is to be sent now.
    pub fn next(&mut self, now: Instant) -> Option<WatchJobsRequest> {
        while self.next_due()? <= now {
            let Reverse((_, uid)) = self.unsent.pop()?;
            if let Some(job) = self.jobs.get_mut(&uid) {
                (job.sent, job.unsent) = (now, false);
                self.requests += 1;
                let action = Some(Action::Watch(job.request.clone()));
                return Some(WatchJobsRequest { action });
            }
        }
        None
    }

    /// Returns the time of the next request, if a job waits for one.
    pub fn next_due(&self) -> Option<Instant> {
        self.unsent.peek().map(|Reverse((due, _))| *due)
    }

    /// Notes an event. Events of a job that has ended have no consequence.
    pub fn take(&mut self, event: JobEvent, now: Instant) -> Outcome {
        self.note(&event, now);
        let uid = event.uid;
        let Some(job) = self.jobs.get_mut(&uid) else {
            return match uid {
                0 => Outcome::Item(Item::Event(event.into())),
                _ => Outcome::Nothing,
            };
        };
        if let Some(Payload::Failure(failure)) = event.payload {
            let failure = Failure::from(failure);
            let may_log_in = !job.token_unproven && !self.no_token;
            return match failure.code {
                _ if failure.reason == ALREADY_WATCHED => Outcome::Nothing,
                Code::Unauthenticated if may_log_in => Outcome::LogIn { uid, failure },
                _ => self.fail(uid, failure, now),
            };
        }
        job.backoff.heard(job.sent, now);
        job.token_unproven &= !proves_token(&event);
        if !event.resume_token.is_empty() {
            job.request.resume_token.clone_from(&event.resume_token);
        }
        match &event.payload {
            Some(Payload::ContentChunk(chunk)) => self.results.entry(uid).or_default().take(chunk),
            Some(Payload::Job(state)) if state.done => {
                let wanted = delivers_result(&job.request);
                self.end(uid);
                let result = self.results.entry(uid).or_default();
                if let Err(failure) = result.verify(state, wanted) {
                    return Outcome::Item(Item::Failed { uid, failure });
                }
            }
            _ => {}
        }
        Outcome::Item(Item::Event(event.into()))
    }

    /// Notes what an event says about the stream.
    fn note(&mut self, event: &JobEvent, now: Instant) {
        let all_synced = matches!(
            &event.payload, Some(Payload::Synced(synced)) if synced.watch_requests >= self.requests
        );
        self.stream.heard(now, all_synced || proves_token(event));
        let failed = matches!(event.payload, Some(Payload::Failure(_)));
        self.resumable_events += u64::from(!failed && !event.resume_token.is_empty());
        if all_synced {
            for job in self.jobs.values_mut() {
                job.token_unproven &= job.unsent;
            }
        }
    }

    /// Returns the consequence of a failure of a job if a login returned no token.
    pub fn without_login(&mut self, uid: i64, failure: Failure, now: Instant) -> Outcome {
        self.no_token = true;
        self.fail(uid, failure, now)
    }

    fn fail(&mut self, uid: i64, failure: Failure, now: Instant) -> Outcome {
        let pending = self.pending();
        match self.jobs.get_mut(&uid) {
            Some(job) if is_transient(&failure) => {
                let wait = job.backoff.next(&failure);
                (job.due, job.unsent) = (after(now, wait), true);
                self.unsent.push(Reverse((job.due, uid)));
                Outcome::Again(Retry {
                    failure,
                    uid: Some(uid),
                    jobs: pending,
                    wait,
                    new_connection: false,
                })
            }
            _ => {
                self.end(uid);
                Outcome::Item(Item::Failed { uid, failure })
            }
        }
    }

    fn end(&mut self, uid: i64) {
        self.jobs.remove(&uid);
        self.ended = Some(uid);
    }

    /// Notes that the next stream has a fresh token.
    fn renewed(&mut self) {
        self.stream.token_unproven = true;
        for job in self.jobs.values_mut() {
            job.token_unproven = true;
        }
    }

    /// Returns whether a fresh token may help after a failure of the stream.
    pub fn wants_token(&self, failure: &Failure) -> bool {
        self.stream.wants_token(failure)
    }

    /// Returns the next stream, or the failure if it is final.
    /// `renewed`: a fresh token was wanted, and there is one.
    pub fn resume(
        &mut self,
        failure: Failure,
        now: Instant,
        renewed: bool,
    ) -> Result<Retry, Failure> {
        if renewed {
            self.renewed();
        }
        let position = self.resumable_events;
        let retry = match failure.reason.as_str() {
            // It may be that of one event, which would come again.
            DEFECT if self.stream.is_first_at(position) => self.stream.retry(failure),
            DEFECT => return Err(failure),
            _ => self.stream.resume(failure, position, renewed)?,
        };
        Ok(self.with_jobs(retry, now))
    }

    /// Returns the next stream after a failure of a job for which there is a fresh token.
    pub fn resume_with_token(&mut self, failure: Failure, now: Instant) -> Retry {
        self.renewed();
        let retry = self.stream.retry(failure);
        self.with_jobs(retry, now)
    }

    fn with_jobs(&self, retry: Retry, now: Instant) -> Retry {
        // Without a request, the stream would have no heartbeats.
        let first = self.jobs.values().map(|job| job.due).min().unwrap_or(now);
        Retry {
            jobs: self.pending(),
            wait: retry.wait.max(first.saturating_duration_since(now)),
            ..retry
        }
    }
}

#[cfg(test)]
mod tests;
