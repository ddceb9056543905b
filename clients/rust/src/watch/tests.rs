use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use sha2::Digest;
use tokio::task::yield_now;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::fake::{Gateway, dropping};
use crate::pb::{ContentChunk, ContentFormat, Heartbeat, SendJobRequest, job};

fn run(request_id: &str) -> Watch<'static> {
    let client = Client::new("http://127.0.0.1:1", "a").unwrap();
    let request = SendJobRequest {
        request_id: request_id.into(),
        ..Default::default()
    };
    client.run(request, Hooks::default())
}

fn ended(result: &[u8], sha256: &str) -> JobEvent {
    let job = Job {
        uid: 7,
        done: true,
        result: Some(job::Result::ContentJson(result.into())),
        content_size: result.len() as i64,
        content_sha256: sha256.into(),
        ..Default::default()
    };
    JobEvent {
        uid: 7,
        payload: Some(Payload::Job(job)),
        ..Default::default()
    }
}

#[test]
fn a_run_is_sent_again_only_if_that_is_safe() {
    let cut = || Failure::new(Code::Unavailable, "");
    assert!(run("").decide(cut(), false).is_err());
    assert!(run("id").decide(cut(), false).unwrap().new_connection);
    let limited = Failure {
        reason: "UPSTREAM_UNAVAILABLE".into(),
        ..cut()
    };
    assert!(run("").decide(limited, false).is_ok());
}

#[test]
fn a_failure_that_names_the_job_is_watched() {
    // The job of the second one would be created again with the token of a login.
    for (code, renewed) in [(Code::Unavailable, false), (Code::Unauthenticated, true)] {
        let mut watch = run("");
        let failure = Failure {
            reason: "NO_STATE_YET".into(),
            metadata: BTreeMap::from([("uid".into(), "7".into())]),
            ..Failure::new(code, "")
        };
        assert!(watch.decide(failure, renewed).is_ok());
        assert_eq!(watch.request.uid, 7);
    }
}

#[test]
fn a_result_of_which_nothing_arrived_is_damaged() {
    for (format, damaged) in [
        (ContentFormat::Unspecified, true),
        (ContentFormat::JsonChunks, true),
        (ContentFormat::None, false),
    ] {
        let mut watch = run("");
        watch.request.set_content_format(format);
        let mut end = ended(b"[1]", "00");
        if let Some(Payload::Job(job)) = &mut end.payload {
            (job.result, job.content_omitted) = (None, true);
        }
        assert_eq!(watch.take(&end).is_err(), damaged, "{format:?}");
    }
}

#[tokio::test]
async fn a_watch_continues_after_each_dropped_next() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let mut watch = client.run(SendJobRequest::default(), Hooks::default());
    assert!(watch.next().now_or_never().is_none());
    let mut call = gateway.call().await;
    assert_eq!(call.method, "RunJob");
    for _ in 0..10 {
        assert!(watch.next().now_or_never().is_none());
        yield_now().await;
    }
    let mut responses = call.respond();
    responses.send(&JobEvent {
        uid: 7,
        payload: Some(Payload::Heartbeat(Heartbeat::default())),
        ..Default::default()
    });
    let event = dropping!(watch.next()).unwrap().unwrap();
    assert_eq!(event.uid, 7);
    responses.send(&ended(b"[1]", &hex::encode(sha2::Sha256::digest(b"[1]"))));
    assert!(dropping!(watch.next()).unwrap().is_some());
    responses.end(Status::ok(""));
    assert!(dropping!(watch.next()).unwrap().is_none());
    assert!(dropping!(watch.next()).unwrap().is_none());
    assert!(gateway.is_idle());
    assert_eq!(watch.finish().await.unwrap().result, b"[1]");
}

#[tokio::test]
async fn a_dropped_next_does_not_end_the_wait() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let retries = AtomicU32::new(0);
    let hooks = Hooks::default().on_retry(|_| {
        retries.fetch_add(1, Ordering::Relaxed);
    });
    let mut watch = client.watch(WatchJobRequest::default(), hooks);
    let respond = async {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3600)));
        let status = Status::with_error_details(Code::Unavailable, "full", details);
        gateway.call().await.fail(status);
    };
    let follow = async {
        while retries.load(Ordering::Relaxed) == 0 {
            assert!(watch.next().now_or_never().is_none());
            yield_now().await;
        }
    };
    tokio::join!(respond, follow);
    for _ in 0..100 {
        assert!(watch.next().now_or_never().is_none());
        yield_now().await;
    }
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_failed_watch_stays_failed() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let mut watch = client.watch(WatchJobRequest::default(), Hooks::default());
    let respond = async { gateway.call().await.fail(Status::not_found("no such job")) };
    let (error, ()) = tokio::join!(watch.next(), respond);
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "no such job [NotFound]");
    assert_eq!(watch.next().await.unwrap_err().to_string(), text);
    assert_eq!(watch.finish().await.unwrap_err().to_string(), text);
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_damaged_result_is_an_error_each_time() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let mut watch = client.watch(WatchJobRequest::default(), Hooks::default());
    let respond = async {
        let mut responses = gateway.call().await.respond();
        responses.send(&ended(b"[1]", "00"));
        responses
    };
    let (error, _responses) = tokio::join!(watch.next(), respond);
    for error in [error, watch.next().await] {
        let Err(Error::Call(failure)) = error else {
            panic!("the watch continued");
        };
        assert_eq!(failure.code, Code::DataLoss);
    }
    assert!(gateway.is_idle());
}

#[tokio::test]
async fn a_run_that_would_cancel_its_job_is_rejected() {
    let client = Client::new("http://127.0.0.1:1", "a").unwrap();
    let request = RunJobRequest {
        cancel_on_disconnect: true,
        ..Default::default()
    };
    let error = client.run(request, Hooks::default()).finish().await;
    let Err(Error::Call(failure)) = error else {
        panic!("the run was accepted");
    };
    assert_eq!(failure.code, Code::InvalidArgument);
    assert!(failure.message.starts_with("cancel_on_disconnect: "));
}

#[test]
fn a_damaged_result_is_not_the_end() {
    let mut watch = run("");
    let failure = watch.take(&ended(b"[1]", "00")).unwrap_err();
    assert_eq!(failure.code, Code::DataLoss);
    assert!(watch.end.is_none());
}

#[tokio::test]
async fn chunks_that_start_again_replace_the_result() {
    let mut watch = run("");
    for (offset, data) in [(0, "[1"), (2, "2]"), (0, "[1"), (2, "3]")] {
        let chunk = ContentChunk {
            offset,
            data: data.into(),
            ..Default::default()
        };
        let event = JobEvent {
            uid: 7,
            payload: Some(Payload::ContentChunk(chunk)),
            ..Default::default()
        };
        watch.take(&event).unwrap();
    }
    let mut end = ended(b"", &hex::encode(sha2::Sha256::digest(b"[13]")));
    if let Some(Payload::Job(job)) = &mut end.payload {
        (job.result, job.content_size) = (None, 4);
    }
    watch.take(&end).unwrap();
    assert_eq!(watch.result(), b"[13]");
}

#[test]
fn a_watch_can_move_to_another_task() {
    fn is_send(_: impl Send) {}
    is_send(run("").finish());
}
