use std::collections::BTreeMap;

use sha2::Digest;
use tonic::Code;

use super::*;
use crate::pb::{ContentChunk, SendJobRequest};

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
    let mut watch = run("");
    let failure = Failure {
        reason: "NO_STATE_YET".into(),
        metadata: BTreeMap::from([("uid".into(), "7".into())]),
        ..Failure::new(Code::Unavailable, "")
    };
    assert!(watch.decide(failure, false).is_ok());
    assert_eq!(watch.request.uid, 7);
}

#[tokio::test]
async fn a_run_whose_next_was_dropped_is_not_sent_again() {
    let mut watch = run("");
    watch.run_sent = true;
    let Err(Error::Call(failure)) = watch.next().await else {
        panic!("the run was sent again");
    };
    assert_eq!(failure.code, Code::Unknown);
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
    assert_eq!(watch.result(), b"[13]");
    let mut end = ended(b"", &hex::encode(sha2::Sha256::digest(b"[13]")));
    if let Some(Payload::Job(job)) = &mut end.payload {
        (job.result, job.content_size) = (None, 4);
    }
    watch.take(&end).unwrap();
    assert_eq!(watch.finish().await.unwrap().result, b"[13]");
}

#[test]
fn a_watch_can_move_to_another_task() {
    fn is_send(_: impl Send) {}
    is_send(run("").finish());
}
