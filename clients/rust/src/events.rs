//! A watch as a stream of its events.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_stream::Stream;

use crate::failure::Error;
use crate::many::{Item, WatchAll};
use crate::pb::{Job, JobEvent};
use crate::result::JobResult;
use crate::watch::Watch;

/// The events `E` of a watch `W` as a `Stream` of `Result`s, from `into_stream` of the watch.
///
/// The stream ends with `None` after the end of each job, and stays ended. If the watch fails, one error comes before the
/// `None`. Dropping the stream cancels the watch; the jobs continue.
///
/// ```no_run
/// # use jobgateway_client::{Client, Hooks, pb::WatchJobRequest};
/// # async fn example(client: Client, request: WatchJobRequest) -> Result<(), jobgateway_client::Error> {
/// use jobgateway_client::pb::job_event::Payload;
/// use tokio_stream::StreamExt;
///
/// let mut events = client.watch(request, Hooks::default()).into_stream();
/// while let Some(event) = events.next().await {
///     if let Some(Payload::Job(job)) = event?.payload
///         && job.done
///     {
///         println!("{}", String::from_utf8_lossy(&events.result_of(&job)));
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Events<'a, W, E> {
    /// `None` while `waiting` has it.
    watch: Option<W>,
    /// The call of `next` that was polled last, because dropping it would drop its timers.
    waiting: Option<Waiting<'a, W, E>>,
    next: fn(W) -> Waiting<'a, W, E>,
    ended: bool,
}

type Waiting<'a, W, E> = Pin<Box<dyn Future<Output = (W, Result<Option<E>, Error>)> + Send + 'a>>;

impl<'a> Watch<'a> {
    /// Returns the events as a stream.
    pub fn into_stream(self) -> Events<'a, Watch<'a>, JobEvent> {
        Events::new(self, |mut watch| {
            Box::pin(async move {
                let next = watch.next().await;
                (watch, next)
            })
        })
    }
}

impl<'a> WatchAll<'a> {
    /// Returns the items as a stream. An `Item::Failed` does not end it.
    pub fn into_stream(self) -> Events<'a, WatchAll<'a>, Item> {
        Events::new(self, |mut watch| {
            Box::pin(async move {
                let next = watch.next().await;
                (watch, next)
            })
        })
    }
}

impl<'a, W, E> Events<'a, W, E> {
    fn new(watch: W, next: fn(W) -> Waiting<'a, W, E>) -> Self {
        Self {
            watch: Some(watch),
            waiting: None,
            next,
            ended: false,
        }
    }
}

impl<W: Unpin, E> Stream for Events<'_, W, E> {
    type Item = Result<E, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(watch) = this.watch.take_if(|_| !this.ended) {
            this.waiting = Some((this.next)(watch));
        }
        let Some(waiting) = &mut this.waiting else {
            return Poll::Ready(None);
        };
        let (watch, next) = ready!(waiting.as_mut().poll(context));
        this.waiting = None;
        this.watch = Some(watch);
        let item = next.transpose();
        this.ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

/// The result of a job whose watch waits for another event.
const NOTHING: &JobResult = &JobResult::new();

impl Events<'_, Watch<'_>, JobEvent> {
    /// Returns the result of the job of the last event as JSON, like `Watch::result_of`.
    pub fn result_of<'a>(&'a self, job: &'a Job) -> Cow<'a, [u8]> {
        match &self.watch {
            Some(watch) => watch.result_of(job),
            None => NOTHING.json(job),
        }
    }
}

impl Events<'_, WatchAll<'_>, Item> {
    /// Returns the result of the job of the last item as JSON, like `WatchAll::result_of`.
    pub fn result_of<'a>(&'a self, job: &'a Job) -> Cow<'a, [u8]> {
        match &self.watch {
            Some(watch) => watch.result_of(job),
            None => NOTHING.json(job),
        }
    }
}

#[cfg(test)]
mod tests;
