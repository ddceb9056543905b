//! The callbacks of a call.

use std::fmt;

use tonic::metadata::MetadataMap;

use crate::pb::Job;
use crate::rules::Retry;

type Hook<'a, T> = Option<Box<dyn FnMut(&T) + Send + 'a>>;

/// The callbacks of a call. All are optional: `Hooks::default()` has none.
#[derive(Default)]
pub struct Hooks<'a> {
    retry: Hook<'a, Retry>,
    progress: Hook<'a, Job>,
    replayed: Option<Box<dyn FnMut() + Send + 'a>>,
}

impl fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl<'a> Hooks<'a> {
    /// Calls `f` before the wait for each further attempt: of a unary call, of the stream of a watch, and in `watch_all` also
    /// of the watch of one job.
    pub fn on_retry(mut self, f: impl FnMut(&Retry) + Send + 'a) -> Self {
        self.retry = Some(Box::new(f));
        self
    }

    /// Calls `f` with each state of the job in `run` and `watch`.
    pub fn on_progress(mut self, f: impl FnMut(&Job) + Send + 'a) -> Self {
        self.progress = Some(Box::new(f));
        self
    }

    /// Calls `f` if `send` or `run` returned the job of an earlier submission with the same `request_id`. A `run` learns it
    /// after the end of its job, before `next` returns `None`.
    pub fn on_replayed(mut self, f: impl FnMut() + Send + 'a) -> Self {
        self.replayed = Some(Box::new(f));
        self
    }

    pub(crate) fn retrying(&mut self, retry: &Retry) {
        if let Some(f) = &mut self.retry {
            f(retry);
        }
    }

    pub(crate) fn progressed(&mut self, job: &Job) {
        if let Some(f) = &mut self.progress {
            f(job);
        }
    }

    /// Reads from the trailers of a successful call whether it repeated an earlier one.
    pub(crate) fn report_replayed(&mut self, trailers: &MetadataMap) {
        let replayed = trailers.get("jobgateway-replayed");
        if let (Some(f), Some(true)) = (&mut self.replayed, replayed.map(|value| value == "true")) {
            f();
        }
    }
}
