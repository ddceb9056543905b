use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use tokio::task::yield_now;
use tonic::Code;

use super::*;
use crate::fake::{Gateway, Responses, dropping};
use crate::pb::{WatchFailure, job_event::Payload};

fn requests(uids: &[i64]) -> Vec<WatchJobRequest> {
    let requests = uids.iter().map(|&uid| WatchJobRequest {
        uid,
        ..Default::default()
    });
    requests.collect()
}

fn send(responses: &mut Responses, uid: i64, payload: Payload) {
    responses.send(&JobEvent {
        uid,
        payload: Some(payload),
        ..Default::default()
    });
}

fn done(uid: i64) -> Payload {
    Payload::Job(Job {
        uid,
        done: true,
        ..Default::default()
    })
}

fn rejected() -> Payload {
    Payload::Failure(WatchFailure {
        code: Code::Unauthenticated.into(),
        reason: "UNAUTHENTICATED".into(),
        ..Default::default()
    })
}

/// Returns a client whose logins return the same token each time.
fn client(gateway: &Gateway, logins: &Arc<AtomicU32>) -> Client {
    let logins = logins.clone();
    let login = move || {
        logins.fetch_add(1, Ordering::Relaxed);
        async {
            for _ in 0..10 {
                yield_now().await;
            }
            Ok::<_, Error>(Some("same".into()))
        }
    };
    Client::builder(&gateway.uri).login(login).build().unwrap()
}

#[tokio::test]
async fn a_watch_logs_in_over_dropped_calls() {
    let mut gateway = Gateway::start().await;
    let logins = Arc::default();
    let mut watch = client(&gateway, &logins).watch_all(requests(&[7]), Hooks::default());
    let respond = async {
        let mut call = gateway.call().await;
        assert_eq!(call.headers["authorization"], "Bearer same");
        let agent = call.headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with(concat!("jobgateway-rust/", env!("CARGO_PKG_VERSION"), " ")));
        let request: WatchJobsRequest = call.request().await;
        assert!(request.action.is_some());
        let mut responses = call.respond();
        send(&mut responses, 7, rejected());
        let mut second = gateway.call().await.respond();
        send(&mut second, 7, done(7));
        second.end(Status::ok(""));
    };
    let follow = async {
        let item = dropping!(watch.next()).unwrap().unwrap();
        assert!(matches!(item, Item::Event(event) if event.uid == 7));
        assert!(dropping!(watch.next()).unwrap().is_none());
        assert!(dropping!(watch.next()).unwrap().is_none());
    };
    tokio::join!(respond, follow);
    assert_eq!(logins.load(Ordering::Relaxed), 2);
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_token_that_is_rejected_again_is_final() {
    let mut gateway = Gateway::start().await;
    let logins = Arc::default();
    let mut watch = client(&gateway, &logins).watch_all(requests(&[7]), Hooks::default());
    let respond = async {
        for _ in 0..2 {
            let mut responses = gateway.call().await.respond();
            send(&mut responses, 7, rejected());
            responses.end(Status::ok(""));
        }
    };
    let (item, ()) = tokio::join!(watch.next(), respond);
    let Some(Item::Failed { uid: 7, failure }) = item.unwrap() else {
        panic!("the watch continued");
    };
    assert_eq!(failure.code, Code::Unauthenticated);
    assert!(watch.next().await.unwrap().is_none());
    assert_eq!(logins.load(Ordering::Relaxed), 2);
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_failed_watch_stays_failed() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let mut watch = client.watch_all(requests(&[7]), Hooks::default());
    let respond = async { gateway.call().await.fail(Status::unimplemented("no")) };
    let (error, ()) = tokio::join!(watch.next(), respond);
    assert_eq!(error.unwrap_err().to_string(), "no [Unimplemented]");
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.to_string(), "no [Unimplemented]");
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_result_is_released_after_its_item() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let mut watch = client.watch_all(requests(&[7, 8]), Hooks::default());
    let respond = async {
        let mut responses = gateway.call().await.respond();
        let chunk = crate::pb::ContentChunk {
            data: b"[1]".into(),
            ..Default::default()
        };
        send(&mut responses, 7, Payload::ContentChunk(chunk));
        send(&mut responses, 7, done(7));
        responses
    };
    let follow = async {
        watch.next().await.unwrap();
        let Some(Item::Event(event)) = watch.next().await.unwrap() else {
            panic!("the watch failed");
        };
        let Some(Payload::Job(job)) = &event.payload else {
            panic!("another event");
        };
        assert_eq!(*watch.result_of(job), *b"[1]");
        assert!(watch.next().now_or_never().is_none());
        assert!(watch.result_of(job).is_empty());
    };
    tokio::join!(respond, follow);
}
