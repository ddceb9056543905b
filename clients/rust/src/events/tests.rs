use std::time::Duration;

use futures_util::StreamExt;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::fake::Gateway;
use crate::pb::{ContentChunk, WatchFailure, WatchJobRequest, job_event::Payload};
use crate::{Client, Hooks};

fn event(uid: i64, payload: Payload) -> JobEvent {
    JobEvent {
        uid,
        payload: Some(payload),
        ..Default::default()
    }
}

fn chunk(data: &str) -> Payload {
    Payload::ContentChunk(ContentChunk {
        data: data.into(),
        ..Default::default()
    })
}

fn done(uid: i64) -> Job {
    Job {
        uid,
        done: true,
        ..Default::default()
    }
}

/// Returns a status after which the watch waits.
fn full() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(Code::Unavailable, "full", details)
}

#[tokio::test]
async fn a_stream_ends_once_after_the_end_of_its_job() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let watch = client.watch(WatchJobRequest::default(), Hooks::default());
    let mut events = watch.into_stream();
    let respond = async {
        gateway.call().await.fail(full());
        let mut responses = gateway.call().await.respond();
        responses.send(&event(7, chunk("[1]")));
        responses.send(&event(7, Payload::Job(done(7))));
        responses.end(Status::ok(""));
    };
    let follow = async {
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first, event(7, chunk("[1]")));
        let last = events.next().await.unwrap().unwrap();
        assert_eq!(last, event(7, Payload::Job(done(7))));
        for _ in 0..2 {
            assert_eq!(*events.result_of(&done(7)), *b"[1]");
            assert!(events.next().await.is_none());
        }
    };
    tokio::join!(respond, follow);
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_stream_ends_after_one_error() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let watch = client.watch(WatchJobRequest::default(), Hooks::default());
    let respond = async { gateway.call().await.fail(Status::not_found("no such job")) };
    let all = watch.into_stream().take(2).collect::<Vec<_>>();
    let (mut all, ()) = tokio::join!(all, respond);
    let error = all.pop().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "no such job [NotFound]");
    assert!(all.is_empty());
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_failed_job_does_not_end_the_stream_of_all() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let requests = [7, 8].map(|uid| WatchJobRequest {
        uid,
        ..Default::default()
    });
    let watch = client.watch_all(requests.to_vec(), Hooks::default());
    let mut events = watch.into_stream();
    let respond = async {
        let mut responses = gateway.call().await.respond();
        let failure = WatchFailure {
            code: Code::NotFound.into(),
            ..Default::default()
        };
        responses.send(&event(7, Payload::Failure(failure)));
        responses.send(&event(8, chunk("[1]")));
        responses.send(&event(8, Payload::Job(done(8))));
        responses.end(Status::ok(""));
    };
    let follow = async {
        let item = events.next().await.unwrap().unwrap();
        assert!(matches!(item, Item::Failed { uid: 7, .. }));
        events.next().await.unwrap().unwrap();
        assert!(matches!(events.next().await, Some(Ok(Item::Event(_)))));
        assert_eq!(*events.result_of(&done(8)), *b"[1]");
        for _ in 0..2 {
            assert!(events.next().await.is_none());
        }
    };
    tokio::join!(respond, follow);
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn the_stream_of_all_ends_after_one_error() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let watch = client.watch_all(vec![WatchJobRequest::default()], Hooks::default());
    let respond = async { gateway.call().await.fail(Status::unimplemented("no")) };
    let all = watch.into_stream().take(2).collect::<Vec<_>>();
    let (mut all, ()) = tokio::join!(all, respond);
    let error = all.pop().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "no [Unimplemented]");
    assert!(all.is_empty());
    assert!(gateway.is_idle());
}

#[test]
fn a_stream_can_move_to_another_task() {
    fn is_send(_: impl Send + Unpin + 'static) {}
    let client = Client::new("http://127.0.0.1:1", "a").unwrap();
    let watch = client.watch(WatchJobRequest::default(), Hooks::default());
    is_send(watch.into_stream());
    is_send(client.watch_all(Vec::new(), Hooks::default()).into_stream());
}
